# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables and how a database is opened: SQLite for one machine, PostgreSQL for more, the same statements."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Dialect

from elivepatch.model.build import Result, Status
from elivepatch.model.errors import EnvironmentFault

_MIGRATIONS = Path(__file__).with_name("migrations")
# An advisory lock of PostgreSQL, so that processes that start at once do not make the same tables.
_MIGRATING = 0x656C7001
PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 11_000,
}
"""What a connection to PostgreSQL is told (libpq's names), so that a database that went away with its host is noticed
in seconds, not after the kernel's quarter of an hour. Keepalives are sent on quiet connections only; what was sent and
never acknowledged has a limit of its own."""

_TURN_S = 0.1
_PATIENCE_S = 120.0

_Answer = TypeVar("_Answer")


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
    sa.Column("tenant", sa.String(40), nullable=False, server_default="default"),
    sa.Column("asked_by", sa.String(40), nullable=False, server_default="operator"),
    # Which workers can do it, and its turn among those who wait (service/jobs/engine.py).
    sa.Column("route", sa.String(16), nullable=False, server_default=""),
    sa.Column("automatic", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("place", sa.Integer, nullable=False, server_default="0"),
    sa.CheckConstraint(_one_of("status", Status), name="status"),
    sa.CheckConstraint(f"result IS NULL OR {_one_of('result', Result)}", name="result"),
    sa.CheckConstraint("(status = 'done') = (result IS NOT NULL)", name="done_has_result"),
)

# One job per key that is under way or may answer again: the database, not a lock, keeps a second run from starting.
_LIVE = sa.text("status <> 'done' OR reusable")
sa.Index("uq_builds_live_job_key", builds.c.job_key, unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE)
sa.Index("ix_builds_status", builds.c.status)
sa.Index("ix_builds_place", builds.c.place)
sa.Index("ix_builds_done_at", builds.c.done_at)
sa.Index("ix_builds_tenant_number", builds.c.tenant, builds.c.number)

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
    sa.Column("role", sa.String(10), nullable=False, server_default="operator"),
    sa.Column("tenant", sa.String(40), nullable=False, server_default="default"),
    # The only kernel that the token of a host is about; empty for any.
    sa.Column("kernel", sa.String(100), nullable=False, server_default=""),
    sa.Column("expires_at", UtcTime),
    sa.Column("revoked_at", UtcTime),
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
    # Of this life of the worker: whoever takes its jobs over empties it.
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
    sa.Index("ix_hosts_tenant_name", "tenant", "name"),
)


def sqlite_url(path: Path) -> str:
    """Return the URL of the SQLite database in the file `path`."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def open_database(url: str, *, pool_size: int = 20) -> sa.Engine:
    """Open the database at `url` (`sqlite:///FILE` or `postgresql+psycopg://...`) without changing it.

    Raises EnvironmentFault where the URL cannot be understood.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise _not_understood() from error
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(parsed)
        sa.event.listen(engine, "connect", set_up_sqlite)
        return engine
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise _not_understood()
    return sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=20,
        connect_args=dict(PATIENCE),
    )


def _not_understood() -> EnvironmentFault:
    return EnvironmentFault(
        "database-url",
        "The database's URL cannot be understood.",
        advice="Write postgresql://USER:PASSWORD@HOST/NAME, or leave it out for SQLite in the state directory.",
    )


def is_away(error: BaseException) -> bool:
    """Return whether `error` says that PostgreSQL is not there, or not now: restarted, starting, unreachable."""
    if isinstance(error, sa.exc.DBAPIError) and type(error.orig).__module__.startswith("psycopg"):
        return bool(error.connection_invalidated) or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))
    return False


def patiently(statement: Callable[[], _Answer], *, patience_s: float = _PATIENCE_S) -> _Answer:
    """Return what `statement` returns, tried again while PostgreSQL is away; `statement` must bear being done twice."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return statement()
        except sa.exc.DBAPIError as error:
            if not is_away(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def now(connection: sa.Connection) -> datetime:
    """Return the moment by the one clock that all processes share: PostgreSQL's, or this machine's for SQLite."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    moment: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    return moment.astimezone(UTC)


@contextmanager
def one_at_a_time(engine: sa.Engine, number: int) -> Iterator[None]:
    """Hold PostgreSQL's advisory lock `number`; nothing on SQLite, whose server is alone with its state directory."""
    if engine.dialect.name == "sqlite":
        yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Not a statement that waits: what makes an index concurrently waits for every statement that is under way, so
        # that whoever has the lock and makes one would wait for us.
        while not connection.execute(sa.text("SELECT pg_try_advisory_lock(:number)"), {"number": number}).scalar_one():
            time.sleep(_TURN_S)
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:number)"), {"number": number})


def set_up_sqlite(connection: SqliteConnection, _record: Any) -> None:
    """Make a new SQLite connection wait for others, keep its promises and let readers pass a writer.

    A write takes the lock at its start: a transaction that reads first and then writes could not wait for another
    writer (SQLite answers SQLITE_BUSY at once, https://www.sqlite.org/lang_transaction.html).
    """
    connection.isolation_level = "IMMEDIATE"
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the database to `revision` of the tables; does nothing where it is there already."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with one_at_a_time(engine, _MIGRATING), engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Python's driver opens a transaction before INSERT and UPDATE, not before CREATE TABLE: a server killed
            # here would leave half of the tables behind.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
