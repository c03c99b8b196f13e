# SPDX-License-Identifier: GPL-2.0-or-later
"""Resources that a server and a worker share: database, store and job engine, opened as the settings say."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import sqlalchemy as sa

from elivepatch.model.errors import UsageError
from elivepatch.service.access.accounts import Tokens
from elivepatch.service.access.audit import Audit
from elivepatch.service.db.database import engine_url, open_tables, requires_database
from elivepatch.service.jobs import engine
from elivepatch.service.jobs.fleet import Fleet
from elivepatch.service.jobs.jobs import Jobs
from elivepatch.service.patches import UploadedPatches
from elivepatch.service.state_directory import STORE_DIRECTORY
from elivepatch.service.store import Store
from elivepatch.settings import ServerSettings

_EMBEDDED = "server"
_WORKER_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Open resources; none of them runs a thread. `shared`: other processes may work on the same jobs."""

    settings: ServerSettings
    database: sa.Engine
    engine_url: str
    engine: engine.Engine
    store: Store
    patches: UploadedPatches
    jobs: Jobs
    tokens: Tokens
    audit: Audit
    fleet: Fleet
    shared: bool

    @property
    def worker_jobs(self) -> Jobs:
        """The jobs for a worker, which waits while the database is restarted."""
        return Jobs(self.database, patience_s=_WORKER_PATIENCE_S)

    @property
    def worker_name(self) -> str:
        """The name under which this process runs jobs."""
        if not self.shared:
            return _EMBEDDED
        return self.settings.worker or socket.gethostname()

    def close(self) -> None:
        """Close the connections to the database."""
        self.engine.close()
        self.database.dispose()


def require_shared(settings: ServerSettings) -> None:
    """Raise UsageError unless database and store can be shared by several processes."""
    if not (settings.database and settings.store):
        raise UsageError(
            "worker-shared",
            "A server and workers in processes of their own need a database and a store that they share.",
            advice="Give both the same --database (PostgreSQL) and --store (s3://BUCKET/PREFIX, file:///DIRECTORY).",
        )


def open_store(settings: ServerSettings) -> Store:
    """Return the store that the settings name; raises EnvironmentFault if its URL is malformed."""
    return Store.at(settings.store) if settings.store else Store.in_directory(settings.state_dir / STORE_DIRECTORY)


def open_resources(settings: ServerSettings) -> Resources:
    """Open database, store and job engine; make or migrate the tables.

    Raises EnvironmentFault if the database does not answer or a URL is malformed.
    """
    database = open_tables(settings)
    with requires_database():
        engine.prepare(engine_url(settings))
        opened = engine.Engine(engine_url(settings))
    store = open_store(settings)
    return Resources(
        settings=settings,
        database=database,
        engine_url=engine_url(settings),
        engine=opened,
        store=store,
        patches=UploadedPatches(database, store),
        jobs=Jobs(database),
        tokens=Tokens(database),
        audit=Audit(database),
        fleet=Fleet(database),
        shared=bool(settings.database),
    )
