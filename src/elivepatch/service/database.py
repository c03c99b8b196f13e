# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables and how a database is opened: SQLite for one machine, PostgreSQL for more, the same statements."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Dialect

from elivepatch.model.build import Result, Status

_MIGRATIONS = Path(__file__).with_name("migrations")


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets the time zone; it is put back on the way out."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the interface's
        """Bring a moment to UTC; one without a time zone raises ValueError."""
        if value is None:
            return None
        if value.tzinfo is None:
            message = "a moment without a time zone"
            raise ValueError(message)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the interface's
        """Return the moment with its time zone."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


def _word(kind: type[Status | Result]) -> sa.Enum:
    """Return the column type that keeps an enumeration as its value, for people who look into the database."""
    return sa.Enum(kind, native_enum=False, length=10, values_callable=lambda words: [word.value for word in words])


def _one_of(column: str, values: type[Status | Result]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts rows only in an INTEGER PRIMARY KEY.
_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

builds = sa.Table(
    "builds",
    metadata,
    sa.Column("number", _Number, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(16), nullable=False, unique=True),
    # What the answer depends on: the build key, and what the trial looks at.
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
    sa.CheckConstraint(_one_of("status", Status), name="status"),
    sa.CheckConstraint(f"result IS NULL OR {_one_of('result', Result)}", name="result"),
    sa.CheckConstraint("(status = 'done') = (result IS NOT NULL)", name="done_has_result"),
)

# One job per key that is under way or may answer again: the database, not a lock, keeps a second run from starting.
_LIVE = sa.text("status <> 'done' OR reusable")
sa.Index("uq_builds_live_job_key", builds.c.job_key, unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE)
sa.Index("ix_builds_status", builds.c.status)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
    sa.Column("build", sa.String(16), sa.ForeignKey("builds.id", ondelete="CASCADE"), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Index("ix_events_build_id", "build", "id"),
    sqlite_autoincrement=True,
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(40), nullable=False, unique=True),
    sa.Column("created_at", UtcTime, nullable=False),
)


def sqlite_url(path: Path) -> str:
    """Return the URL of the SQLite database in the file `path`."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def open_database(url: str) -> sa.Engine:
    """Open the database at `url` (`sqlite:///FILE` or `postgresql+psycopg://...`) without changing it."""
    engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", set_up_sqlite)
    return engine


def set_up_sqlite(connection: SqliteConnection, _record: Any) -> None:
    """Make a new SQLite connection wait for others, keep its promises and let readers pass a writer.

    A write takes the lock at its start: a transaction that reads first and then writes could not wait for another
    writer (SQLite answers SQLITE_BUSY at once, https://www.sqlite.org/lang_transaction.html).
    """
    connection.isolation_level = "IMMEDIATE"
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def migrate(engine: sa.Engine) -> None:
    """Bring the database to this version's tables; does nothing where it is there already."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Python's driver opens a transaction before INSERT and UPDATE, not before CREATE TABLE: a server killed
            # here would leave half of the tables behind.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
