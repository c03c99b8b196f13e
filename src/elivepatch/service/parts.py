# SPDX-License-Identifier: GPL-2.0-or-later
"""What the server, a worker and the commands about them share: database, store and engine, by the settings."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.service.access.accounts import Tokens
from elivepatch.service.access.audit import Audit
from elivepatch.service.db.database import is_away, migrate, open_database, sqlite_url
from elivepatch.service.jobs import engine
from elivepatch.service.jobs.fleet import Fleet
from elivepatch.service.jobs.jobs import Jobs
from elivepatch.service.store import Store
from elivepatch.service.uploads import Uploads
from elivepatch.settings import ServerSettings

DATABASE_FILE = "elivepatch.db"
ENGINE_FILE = "engine.db"
STORE_DIRECTORY = "store"
WORK_DIRECTORY = "work"
UPLOADS_DIRECTORY = "uploads"
KEY_FILE = "signing.key"
RECORDS_FILE = "records.idx"
TOKEN_FILE = "operator.token"  # noqa: S105 - a file's name

_EMBEDDED = "server"
_WORKER_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts, none of which runs anything. `shared` says that other processes may work on the same jobs."""

    settings: ServerSettings
    database: sa.Engine
    engine_url: str
    engine: engine.Engine
    store: Store
    uploads: Uploads
    jobs: Jobs
    tokens: Tokens
    audit: Audit
    fleet: Fleet
    shared: bool

    @property
    def worker_jobs(self) -> Jobs:
        """The jobs for a worker, which waits for a database that is restarted."""
        return Jobs(self.database, patience_s=_WORKER_PATIENCE_S)

    @property
    def worker_name(self) -> str:
        """The name under which this process runs jobs."""
        if not self.shared:
            return _EMBEDDED
        return self.settings.worker or socket.gethostname()

    def close(self) -> None:
        """Let go of the database."""
        self.engine.close()
        self.database.dispose()


def database_url(settings: ServerSettings) -> str:
    """Return the URL of the database with jobs, tokens, audit log."""
    return settings.database or sqlite_url(settings.state_dir / DATABASE_FILE)


def engine_url(settings: ServerSettings) -> str:
    """Return the URL of the database with the execution of jobs: the same one, in a schema of its own, or a file."""
    return settings.database or sqlite_url(settings.state_dir / ENGINE_FILE)


def require_shared(settings: ServerSettings) -> None:
    """Raise UsageError unless database and store can be shared by several processes."""
    if not (settings.database and settings.store):
        raise UsageError(
            "worker-shared",
            "Server and workers of their own need a database and a store that they share.",
            advice="Give both the same --database (PostgreSQL) and --store (s3://BUCKET/PREFIX, file:///DIRECTORY).",
        )


def make_state_directory(directory: Path) -> None:
    """Make the state directory the server's own; raises EnvironmentFault where that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # People's patches, which may describe holes that are not public yet, and the digests of tokens.
        directory.chmod(0o700)
    except OSError as error:
        raise EnvironmentFault(
            "state-directory",
            f"{directory} cannot be made the server's own: {error.strerror}.",
            advice="Give a directory that this user may write with --state.",
        ) from error


def open_tables(settings: ServerSettings) -> sa.Engine:
    """Open the database with jobs, tokens and audit log, its tables made or migrated.

    Raises EnvironmentFault where the database does not answer or its URL cannot be understood.
    """
    database = open_database(database_url(settings))
    with _answering():
        migrate(database)
    return database


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        if not is_away(error):
            raise
        raise EnvironmentFault(
            "database-away",
            "The database does not answer.",
            advice="Look whether PostgreSQL runs and lets this user in, and at the setting `database`.",
        ) from error


def open_parts(settings: ServerSettings) -> Parts:
    """Open database and store, make or migrate the tables.

    Raises EnvironmentFault where the database does not answer or a URL cannot be understood.
    """
    database = open_tables(settings)
    with _answering():
        engine.prepare(engine_url(settings))
        opened = engine.Engine(engine_url(settings))
    directory = settings.state_dir / STORE_DIRECTORY
    store = Store.at(settings.store) if settings.store else Store.in_directory(directory)
    return Parts(
        settings=settings,
        database=database,
        engine_url=engine_url(settings),
        engine=opened,
        store=store,
        uploads=Uploads(store, settings.state_dir / UPLOADS_DIRECTORY),
        jobs=Jobs(database),
        tokens=Tokens(database),
        audit=Audit(database),
        fleet=Fleet(database),
        shared=bool(settings.database),
    )
