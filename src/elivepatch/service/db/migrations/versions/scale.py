# SPDX-License-Identifier: GPL-2.0-or-later
"""Indexes for many jobs and hosts, and numbers of a job's events that stay when older events are deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_UNFINISHED = sa.text("status <> 'done'")


def upgrade() -> None:
    """Add the indexes; number the events that are there by their order, as the API did until now."""
    op.create_index("ix_builds_release_number", "builds", ["release", "number"])
    op.create_index(
        "ix_builds_unfinished",
        "builds",
        ["tenant", "automatic", "place"],
        sqlite_where=_UNFINISHED,
        postgresql_where=_UNFINISHED,
    )
    op.add_column("events", sa.Column("number", sa.Integer, nullable=False, server_default="0"))
    op.execute(
        "UPDATE events SET number = counted.number FROM"
        " (SELECT id, row_number() OVER (PARTITION BY build ORDER BY id) AS number FROM events) AS counted"
        " WHERE events.id = counted.id"
    )
    op.create_index("ix_events_build_number", "events", ["build", "number"])
    op.drop_index("ix_events_build_id", "events")
    op.create_index("ix_hosts_name_token", "hosts", ["name", "token"])
    op.create_index("ix_hosts_tenant_name_token", "hosts", ["tenant", "name", "token"])
    op.drop_index("ix_hosts_tenant_name", "hosts")
    op.create_index("ix_hosts_token_seen_at", "hosts", ["token", "seen_at"])
