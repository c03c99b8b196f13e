# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening and migrating a database: SQLite for one machine, PostgreSQL for more, the same statements for both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any, TypeVar

import sqlalchemy as sa

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.db.tables import REVISION
from elivepatch.service.state_directory import DATABASE_FILE, ENGINE_FILE
from elivepatch.settings import ServerSettings

_MIGRATIONS = Path(__file__).with_name("migrations")
# An advisory lock of PostgreSQL, so that processes that start at once do not make the same tables.
_MIGRATING = 0x656C7001
_CONNECTION_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 11_000,
}
"""Options of a connection to PostgreSQL (libpq's names): a database that went away with its host is noticed in seconds.
The kernel's own limit is a quarter of an hour. TCP sends keepalives on quiet connections only; `tcp_user_timeout`
bounds data that was sent and never acknowledged."""

_IDLE_MS = 3_000
"""Milliseconds that a transaction may wait for its process. PostgreSQL then ends the connection: a process that was
frozen inside a transaction would keep its locks, and the worker that takes its jobs over would wait for them. Shorter
than the silence of a worker that counts as frozen (jobs/fleet.py), so that nobody has to wait."""

_POLL_S = 0.1
_RETRY_FOR_S = 120.0
_RETRY_EVERY_S = 0.5

_Answer = TypeVar("_Answer")


def sqlite_url(path: Path) -> str:
    """Return the URL of the SQLite database in the file `path`."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def database_url(settings: ServerSettings) -> str:
    """Return the URL of the database with jobs, tokens and audit log."""
    return settings.database or sqlite_url(settings.state_dir / DATABASE_FILE)


def engine_url(settings: ServerSettings) -> str:
    """Return the URL of the job engine's database: a schema of the same PostgreSQL, or a SQLite file of its own."""
    return settings.database or sqlite_url(settings.state_dir / ENGINE_FILE)


def open_database(url: str, *, pool_size: int = 20) -> sa.Engine:
    """Open the database at `url` (`sqlite:///FILE` or `postgresql+psycopg://...`) without changing it.

    Raises EnvironmentFault with the code `database-url` if the URL is malformed.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise _malformed_url() from error
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(parsed)
        sa.event.listen(engine, "connect", configure_sqlite)
        return engine
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise _malformed_url()
    return sa.create_engine(
        with_connection_options(parsed).set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=20,
    )


def with_connection_options(url: sa.URL) -> sa.URL:
    """Return the URL of a PostgreSQL database with the options that each connection of ours has.

    Options of the operator's URL stay; the server's settings among them (`options`) come first.
    """
    given = url.query.get("options", ())
    settings = [*((given,) if isinstance(given, str) else given), f"-c idle_in_transaction_session_timeout={_IDLE_MS}"]
    ours = {name: str(value) for name, value in _CONNECTION_OPTIONS.items() if name not in url.query}
    return url.update_query_dict(ours | {"options": " ".join(settings)})


def open_tables(settings: ServerSettings) -> sa.Engine:
    """Open the database with jobs, tokens and audit log, and make or migrate its tables.

    Raises EnvironmentFault if the database does not answer or its URL is malformed.
    """
    database = open_database(database_url(settings))
    with requires_database():
        migrate(database)
    return database


@contextmanager
def requires_database() -> Iterator[None]:
    """Raise EnvironmentFault with the code `database-away` if PostgreSQL does not answer inside the block."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if not is_away(error):
            raise
        raise EnvironmentFault(
            "database-away",
            "The database does not answer.",
            advice="Check that PostgreSQL runs and accepts this user, and check the setting `database`.",
        ) from error


def _malformed_url() -> EnvironmentFault:
    return EnvironmentFault(
        "database-url",
        "The database's URL cannot be understood.",
        advice="Write postgresql://USER:PASSWORD@HOST/NAME, or leave it out for SQLite in the state directory.",
    )


def is_away(error: BaseException) -> bool:
    """Return whether `error` means that PostgreSQL cannot be reached now: stopped, restarting, unreachable."""
    if isinstance(error, sa.exc.DBAPIError) and type(error.orig).__module__.startswith("psycopg"):
        return bool(error.connection_invalidated) or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))
    return False


def retry_while_away(statement: Callable[[], _Answer], *, patience_s: float = _RETRY_FOR_S) -> _Answer:
    """Return the result of `statement`, which is repeated for `patience_s` seconds while PostgreSQL is away.

    `statement` must have the same effect if it runs twice. Raises the last error after that time.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return statement()
        except sa.exc.DBAPIError as error:
            if not is_away(error) or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_EVERY_S)


def now(connection: sa.Connection) -> datetime:
    """Return the time by the one clock that all processes share: PostgreSQL's, or this machine's for SQLite."""
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    moment: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
    return moment.astimezone(UTC)


@contextmanager
def advisory_lock(engine: sa.Engine, number: int) -> Iterator[None]:
    """Hold PostgreSQL's advisory lock `number`; do nothing on SQLite, where one server has the state directory."""
    if engine.dialect.name == "sqlite":
        yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Not `pg_advisory_lock`, which waits inside a statement: CREATE INDEX CONCURRENTLY waits for every statement
        # under way, so a holder of the lock that makes such an index would wait for us.
        while not connection.execute(sa.text("SELECT pg_try_advisory_lock(:number)"), {"number": number}).scalar_one():
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:number)"), {"number": number})


def configure_sqlite(connection: SqliteConnection, _record: Any) -> None:
    """Make a new SQLite connection durable, let it wait for others, and let readers pass a writer.

    A write takes the lock at its start: a transaction that reads first and then writes could not wait for another
    writer (SQLite answers SQLITE_BUSY at once, https://www.sqlite.org/lang_transaction.html).
    """
    connection.isolation_level = "IMMEDIATE"
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def current_revision(engine: sa.Engine) -> str | None:
    """Return the revision of the tables (a migration's name), None if there are no tables yet."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return revision


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    """Bring the tables to `revision`; do nothing if they have it already."""
    if revision == "head" and current_revision(engine) == REVISION:
        return
    # Alembic takes longer to load than a short command takes in all; most starts find the tables current.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with advisory_lock(engine, _MIGRATING), engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # Python's driver opens a transaction before INSERT and UPDATE, not before CREATE TABLE: a server killed
            # here would leave half of the tables behind.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
