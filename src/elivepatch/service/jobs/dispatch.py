# SPDX-License-Identifier: GPL-2.0-or-later
"""Waking of DBOS's queue threads: an idle server asks its database next to nothing, and a job starts at once.

DBOS asks every queue several times a second if it holds a job, which took 17 % of a core for a server with ten
kernels on SQLite. A `Dispatcher` takes the place of DBOS's queue manager: it starts DBOS's own thread for each route,
with a stop event whose `wait` lasts until it is rung. The submission of a job in this process rings; one query for all
routes finds the jobs that other processes submit (PostgreSQL).
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import dbos._dbos as dbos_instance
import dbos._workflow_commands as dbos_background
import sqlalchemy as sa
import structlog
from dbos import DBOS
from dbos._queue import queue_worker_thread

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.db.database import open_database

POLL_S = 0.2
"""Seconds between two queries for an awake route, and between two for all routes of a shared database."""

_MANAGER = "queue_thread"
# DBOS looks every second for delays and deadlines that have passed; no job has one.
_BACKGROUND_INTERVAL = "_BACKGROUND_JOBS_INTERVAL_SEC"
_BACKGROUND_S = 60.0
_ALONE_S = 5.0
# A woken route stays awake for so long, because DBOS counts a job for a moment after its end.
_AWAKE_S = 2.0
# DBOS puts the jobs of an earlier process back into their queues some time after its start.
_AWAKE_AT_START_S = 10.0
_JOIN_S = 2.0

_logger = structlog.get_logger()


class Doorbell(threading.Event):
    """A stop event for a thread of DBOS that polls: `wait` lasts until `ring` or `set`, not until its timeout."""

    def __init__(self) -> None:
        super().__init__()
        self._rung = threading.Event()
        self._awake_until = 0.0

    def ring(self) -> None:
        """End the wait, and let the thread poll at its own pace for a moment."""
        self._awake_until = time.monotonic() + _AWAKE_S
        self._rung.set()

    def set(self) -> None:
        """End the thread."""
        super().set()
        self._rung.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a ring, or for `timeout` seconds while awake. Return True if the thread is to end."""
        self._rung.wait(timeout if time.monotonic() < self._awake_until else None)
        self._rung.clear()
        return self.is_set()


class Dispatcher:
    """Wakes the queue threads of this process when jobs wait for them."""

    def __init__(self, url: str, *, application_version: str) -> None:
        self._database = open_database(url, pool_size=1)
        shared = self._database.dialect.name != "sqlite"
        self._interval_s = POLL_S if shared else _ALONE_S
        self._waiting = sa.text(
            f"SELECT DISTINCT queue_name FROM {'dbos.' if shared else ''}workflow_status"  # noqa: S608 - no input
            " WHERE status = 'ENQUEUED' AND application_version = :version"
        ).bindparams(version=application_version)
        self._lock = threading.Lock()
        self._bells: dict[str, Doorbell] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()
        self._bell = threading.Event()
        self._busy_until = 0.0

    def launch(self) -> None:
        """Launch DBOS with this dispatcher in place of its queue manager.

        Raises EnvironmentFault if the installed DBOS lacks a function that this replaces.
        """
        require_hooks()
        manager = getattr(dbos_instance, _MANAGER)
        setattr(dbos_instance, _MANAGER, self._run)
        setattr(dbos_background, _BACKGROUND_INTERVAL, _BACKGROUND_S)
        try:
            DBOS.launch()
        finally:
            setattr(dbos_instance, _MANAGER, manager)

    def listen(self, routes: Collection[str]) -> None:
        """Take jobs of these routes from now on, and of no others."""
        with self._lock:
            for route in set(self._bells) - set(routes):
                self._bells.pop(route).set()
            for route in sorted(set(routes)):
                self._ensure(route)
        self.look()

    def ring(self, route: str) -> None:
        """Start the next job of a route now, if this process runs jobs of it."""
        with self._lock:
            if route in self._bells:
                self._ensure(route)
                self._bells[route].ring()

    def look(self) -> None:
        """Look for waiting jobs of all routes now, and again for a moment."""
        self._busy_until = max(self._busy_until, time.monotonic() + _AWAKE_S)
        self._bell.set()

    def stop(self) -> None:
        """Take no more jobs."""
        self._stopping.set()
        self._bell.set()
        with self._lock:
            for bell in self._bells.values():
                bell.set()
            threads = list(self._threads.values())
        for thread in threads:
            thread.join(timeout=_JOIN_S)

    def close(self) -> None:
        """Close the connections to the database."""
        self._database.dispose()

    def _ensure(self, route: str) -> None:
        """Start the thread of a route unless it runs. DBOS lets one end that failed; its manager would do the same."""
        thread = self._threads.get(route)
        if route in self._bells and thread is not None and thread.is_alive():
            return
        bell = Doorbell()
        queue = DBOS.retrieve_queue(route)
        thread = threading.Thread(
            target=queue_worker_thread,
            args=(bell, dbos_instance._get_dbos_instance(), queue),  # noqa: SLF001 - DBOS's thread wants it
            name=f"route-{route}",
            daemon=True,
        )
        thread.start()
        self._bells[route], self._threads[route] = bell, thread

    def _run(self, _stop: threading.Event, _dbos: object) -> None:
        """Ring for the routes in which jobs wait. DBOS starts this with a stop event of its own; `stop` comes first."""
        self._busy_until = time.monotonic() + _AWAKE_AT_START_S
        failing = False
        while not self._stopping.is_set():
            try:
                self._ring_waiting()
                failing = False
            except sa.exc.DBAPIError as error:
                if not failing:
                    _logger.warning("dispatch.database-away", error=str(error)[:300])
                failing = True
            self._bell.wait(POLL_S if time.monotonic() < self._busy_until else self._interval_s)
            self._bell.clear()

    def _ring_waiting(self) -> None:
        with self._lock:
            if not self._bells:
                return
        with self._database.connect() as connection:
            waiting = set(connection.execute(self._waiting).scalars())
        for route in waiting:
            self.ring(route)


def require_hooks() -> None:
    """Raise EnvironmentFault with the code `engine-version` unless DBOS has the functions that are used beyond its API.

    pyproject.toml pins DBOS to a minor version for them.
    """
    expected: list[tuple[str, Callable[..., Any] | None, list[str]]] = [
        (_MANAGER, getattr(dbos_instance, _MANAGER, None), ["stop_event", "dbos"]),
        ("queue_worker_thread", queue_worker_thread, ["stop_event", "dbos", "queue"]),
        ("_recover_pending_workflows", getattr(DBOS, "_recover_pending_workflows", None), ["executor_ids"]),
    ]
    found = {
        name: function is not None and list(inspect.signature(function).parameters) == parameters
        for name, function, parameters in expected
    }
    found[_BACKGROUND_INTERVAL] = hasattr(dbos_background, _BACKGROUND_INTERVAL)
    for name, there in found.items():
        if not there:
            raise EnvironmentFault(
                "engine-version",
                f"The installed version of dbos has no `{name}` as the server needs it.",
                advice="Install the version of dbos that elivepatch's requirements name.",
            )
