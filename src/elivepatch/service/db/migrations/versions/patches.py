# SPDX-License-Identifier: GPL-2.0-or-later
"""Source patches that tenants uploaded, to be named by digest."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "patches",
        sa.Column("tenant", sa.String(40), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "digest", name="pk_patches"),
    )
    op.create_index("ix_patches_digest", "patches", ["digest"])
    op.create_index("ix_patches_used_at", "patches", ["used_at"])
