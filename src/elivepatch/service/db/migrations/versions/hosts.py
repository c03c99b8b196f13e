# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of hosts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "hosts",
        sa.Column("token", sa.String(40), nullable=False),
        sa.Column("name", sa.String(120), nullable=False),
        sa.Column("tenant", sa.String(40), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("token", "name", name="pk_hosts"),
    )
    op.create_index("ix_hosts_tenant_name", "hosts", ["tenant", "name"])
