# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of the first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)
_LIVE = sa.text("status <> 'done' OR reusable")


def upgrade() -> None:
    """Make the tables."""
    _make_builds()
    _make_events()
    _make_tokens()


def _make_builds() -> None:
    op.create_table(
        "builds",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("job_key", sa.String(64), nullable=False),
        sa.Column("build_key", sa.String(64), nullable=False),
        sa.Column("reusable", sa.Boolean, nullable=False),
        sa.Column("release", sa.String(100), nullable=False),
        sa.Column("kernel_build_id", sa.String(128), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("result", sa.String(10)),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("report", sa.JSON),
        sa.Column("module_digest", sa.String(64)),
        sa.Column("log_digest", sa.String(64)),
        sa.Column("console_digest", sa.String(64)),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT),
        sa.Column("done_at", _MOMENT),
        sa.PrimaryKeyConstraint("number", name="pk_builds"),
        sa.UniqueConstraint("id", name="uq_builds_id"),
        sa.CheckConstraint("status IN ('queued', 'running', 'done')", name="ck_builds_status"),
        sa.CheckConstraint(
            "result IS NULL OR result IN ('success', 'failure', 'error', 'cancelled')", name="ck_builds_result"
        ),
        sa.CheckConstraint("(status = 'done') = (result IS NOT NULL)", name="ck_builds_done_has_result"),
    )
    op.create_index(
        "uq_builds_live_job_key", "builds", ["job_key"], unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE
    )
    op.create_index("ix_builds_status", "builds", ["status"])


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("build", sa.String(16), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(["build"], ["builds.id"], name="fk_events_build_builds", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_build_id", "events", ["build", "id"])


def _make_tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_tokens"),
        sa.UniqueConstraint("name", name="uq_tokens_name"),
    )
