# SPDX-License-Identifier: GPL-2.0-or-later
"""Wakes the streams of a job when it has a new event: one query for all streams instead of one for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
import structlog

from elivepatch.service.db.tables import events

_POLL_S = 0.2
_AT_ONCE = 10_000

_logger = structlog.get_logger()

_Listener = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class EventNotifier:
    """Polls the table of events in a thread.

    Events that it misses, for example while the database is down, are not replayed: streams also poll now and then.
    """

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._listeners: dict[str, set[_Listener]] = {}
        self._stopping = threading.Event()
        self._listened = threading.Event()
        self._last: int | None = None
        self._thread = threading.Thread(target=self._rounds, name="watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wake all streams."""
        self._stopping.set()
        self._listened.set()
        self._wake_all()

    def _wake_all(self) -> None:
        with self._lock:
            for listeners in self._listeners.values():
                _wake(listeners)

    @contextmanager
    def listening(self, job: str) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop that is set whenever the job has a new event."""
        listener = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._listeners.setdefault(job, set()).add(listener)
            self._listened.set()
        try:
            yield listener[1]
        finally:
            with self._lock:
                self._listeners[job].discard(listener)
                if not self._listeners[job]:
                    del self._listeners[job]
                if not self._listeners and not self._stopping.is_set():
                    self._listened.clear()

    def _rounds(self) -> None:
        failing = False
        while not self._stopping.wait(_POLL_S):
            if not self._listened.is_set():
                # An idle server asks nothing; the newest event is read again for the next stream.
                self._last = None
                self._listened.wait()
                continue
            try:
                self._poll()
                failing = False
            except Exception as error:  # noqa: BLE001 - a round that fails must not be the last
                if not failing:
                    _logger.warning("watch.round-failed", error=str(error)[:300])
                failing = True

    def _poll(self) -> None:
        with self._database.connect() as connection:
            if self._last is None:
                self._last = connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0
                # A stream may have read the table before the newest event was written: it reads again now.
                self._wake_all()
                return
            found = connection.execute(
                sa.select(events.c.id, events.c.build).where(events.c.id > self._last).limit(_AT_ONCE)
            ).all()
        if found:
            self._last = max(row.id for row in found)
            with self._lock:
                for job in {row.build for row in found}:
                    _wake(self._listeners.get(job, set()))


def _wake(listeners: set[_Listener]) -> None:
    for loop, event in listeners:
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)
