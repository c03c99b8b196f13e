# SPDX-License-Identifier: GPL-2.0-or-later
"""Accounts with roles and tenants, places in the queue, workers on several machines, the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add columns and tables; existing jobs belong to the default tenant, existing tokens to the operator."""
    for column in (
        sa.Column("tenant", sa.String(40), nullable=False, server_default="default"),
        sa.Column("asked_by", sa.String(40), nullable=False, server_default="operator"),
        sa.Column("route", sa.String(16), nullable=False, server_default=""),
        sa.Column("automatic", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("place", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("builds", column)
    op.create_index("ix_builds_place", "builds", ["place"])
    op.create_index("ix_builds_done_at", "builds", ["done_at"])
    op.create_index("ix_builds_tenant_number", "builds", ["tenant", "number"])
    op.add_column("tokens", sa.Column("role", sa.String(10), nullable=False, server_default="operator"))
    op.add_column("tokens", sa.Column("tenant", sa.String(40), nullable=False, server_default="default"))
    op.add_column("tokens", sa.Column("kernel", sa.String(100), nullable=False, server_default=""))
    op.add_column("tokens", sa.Column("expires_at", _MOMENT))
    op.add_column("tokens", sa.Column("revoked_at", _MOMENT))
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("who", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(40), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("generation", sa.String(16), nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.Column("kernels", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )
