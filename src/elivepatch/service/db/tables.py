# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of the database. Migrations (`db/migrations`) make them; a test compares the two."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from elivepatch.model.build import Result, Status


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A time in UTC. SQLite does not store the time zone; it is added when a value is read."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the interface's
        """Convert a time to UTC; raises ValueError if it has no time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            message = "a time without a time zone"
            raise ValueError(message)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the interface's
        """Return the time with its time zone."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


def _word(kind: type[Status | Result]) -> sa.Enum:
    """Return the column type that stores the value of an enumeration, which people can read in the database."""
    return sa.Enum(kind, native_enum=False, length=10, values_callable=lambda words: [word.value for word in words])


def _one_of(column: str, values: type[Status | Result]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


REVISION = "0006"
"""The newest migration in `db/migrations/versions`: tables of this revision need none."""

DEFAULT_TENANT = "default"
"""The tenant of an account that names none."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in an INTEGER PRIMARY KEY.
_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

builds = sa.Table(
    "builds",
    metadata,
    sa.Column("number", _Number, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(16), nullable=False, unique=True),
    # Digest of everything that decides the answer: the build key, the expectations and the options.
    sa.Column("job_key", sa.String(64), nullable=False),
    sa.Column("build_key", sa.String(64), nullable=False),
    sa.Column("reusable", sa.Boolean, nullable=False),
    sa.Column("release", sa.String(100), nullable=False),
    sa.Column("kernel_build_id", sa.String(128), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("status", _word(Status), nullable=False),
    sa.Column("result", _word(Result)),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("report", sa.JSON(none_as_null=True)),
    sa.Column("module_digest", sa.String(64)),
    sa.Column("log_digest", sa.String(64)),
    sa.Column("console_digest", sa.String(64)),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("started_at", UtcTime),
    sa.Column("done_at", UtcTime),
    sa.Column("tenant", sa.String(40), nullable=False, server_default="default"),
    sa.Column("asked_by", sa.String(40), nullable=False, server_default="operator"),
    # Queue of the workers that can do it, and its place in the queue (service/jobs/engine.py).
    sa.Column("route", sa.String(16), nullable=False, server_default=""),
    sa.Column("automatic", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("place", sa.Integer, nullable=False, server_default="0"),
    sa.CheckConstraint(_one_of("status", Status), name="status"),
    sa.CheckConstraint(f"result IS NULL OR {_one_of('result', Result)}", name="result"),
    sa.CheckConstraint("(status = 'done') = (result IS NOT NULL)", name="done_has_result"),
)

sa.Index("ix_builds_status", builds.c.status)
sa.Index("ix_builds_place", builds.c.place)
sa.Index("ix_builds_done_at", builds.c.done_at)
sa.Index("ix_builds_tenant_number", builds.c.tenant, builds.c.number)
sa.Index("ix_builds_release_number", builds.c.release, builds.c.number)

UNFINISHED = sa.text("status <> 'done'")
"""The condition of the index `ix_builds_unfinished`, for statements about jobs that are not done.

SQLite uses a partial index only for a statement that holds the index's condition word for word, without bound values
(https://www.sqlite.org/partialindex.html).
"""

LIVE = sa.text("(status <> 'done' OR reusable)")
"""The condition of the index `uq_builds_live_job_key`: jobs under way, and done ones that answer equal requests."""


@functools.cache
def partial_indexes() -> tuple[sa.Index, ...]:
    """Add the partial indexes to the tables and return them.

    Only what writes or compares DDL needs them; to name a condition at import would load the modules of both kinds of
    database, which takes a short command a tenth of a second.
    """
    return (
        # One job per key that is under way or may answer again: the database, not a lock, prevents a second run.
        sa.Index("uq_builds_live_job_key", builds.c.job_key, unique=True, sqlite_where=LIVE, postgresql_where=LIVE),
        sa.Index(
            "ix_builds_unfinished",
            builds.c.tenant,
            builds.c.automatic,
            builds.c.place,
            sqlite_where=UNFINISHED,
            postgresql_where=UNFINISHED,
        ),
    )


events = sa.Table(
    "events",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
    sa.Column("build", sa.String(16), sa.ForeignKey("builds.id", ondelete="CASCADE"), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    # Counts the events of one job from 1. It stays when retention deletes events before it.
    sa.Column("number", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_events_build_number", "build", "number"),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(40), nullable=False, unique=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("role", sa.String(10), nullable=False, server_default="operator"),
    sa.Column("tenant", sa.String(40), nullable=False, server_default="default"),
    # The only release that the token may use; empty for any.
    sa.Column("kernel", sa.String(100), nullable=False, server_default=""),
    sa.Column("expires_at", UtcTime),
    sa.Column("revoked_at", UtcTime),
)

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("public_key", sa.String(64), nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("who", sa.String(40), nullable=False),
    sa.Column("tenant", sa.String(40), nullable=False),
    sa.Column("action", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(200), nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("name", sa.String(60), primary_key=True),
    # Names this run of the worker; a worker that takes over its jobs empties it.
    sa.Column("generation", sa.String(16), nullable=False),
    sa.Column("seen_at", UtcTime, nullable=False),
    sa.Column("kernels", sa.JSON, nullable=False),
)

hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("token", sa.String(40), primary_key=True),
    sa.Column("name", sa.String(120), primary_key=True),
    sa.Column("tenant", sa.String(40), nullable=False),
    sa.Column("seen_at", UtcTime, nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
    sa.Index("ix_hosts_name_token", "name", "token"),
    sa.Index("ix_hosts_tenant_name_token", "tenant", "name", "token"),
    sa.Index("ix_hosts_token_seen_at", "token", "seen_at"),
)

# Source patches that a tenant uploaded and may name by digest (service/patches.py); the bytes are in the store.
patches = sa.Table(
    "patches",
    metadata,
    sa.Column("tenant", sa.String(40), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("used_at", UtcTime, nullable=False),
    sa.Index("ix_patches_digest", "digest"),
    sa.Index("ix_patches_used_at", "used_at"),
)
