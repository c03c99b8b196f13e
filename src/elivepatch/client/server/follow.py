# SPDX-License-Identifier: GPL-2.0-or-later
"""Follows a job and reports its progress, across lost connections and restarts of the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Unreachable
from elivepatch.client.server.report import Report
from elivepatch.model.progress import Event, Progress

PATIENCE_S = 60.0
"""Seconds that a server may be unreachable before the client gives up."""

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 3.0

_Answer = TypeVar("_Answer")


class JobFollower:
    """Follows a job; repeats requests while the server is unreachable, for at most `PATIENCE_S`."""

    def __init__(
        self,
        progress: Progress,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._sleep = sleep

    def retry(self, question: Callable[[], _Answer]) -> _Answer:
        """Return the value of `question`, called again while it raises Unreachable; raises that after `PATIENCE_S`."""
        lost_at: float | None = None
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return question()
            except Unreachable:
                now = self._clock()
                if lost_at is None:
                    lost_at = now
                    message = f"the server is unreachable, trying again for {PATIENCE_S:.0f} s"
                    self._progress(Event(stage="wait", message=message))
                if now - lost_at >= PATIENCE_S:
                    raise
            pause = self.pause(pause)

    def pause(self, seconds: float) -> float:
        """Wait, and return the seconds to wait the next time."""
        self._sleep(seconds)
        return min(seconds * 2, _LONGEST_PAUSE_S)

    def follow(self, api: ServerClient, job: str) -> Report:
        """Return the job's report when it is done; report its progress until then, each event once."""
        last = 0

        def listen() -> bool:
            nonlocal last
            heard = False
            try:
                for event in api.events(job, after=last):
                    last = max(last, event.id)
                    heard = True
                    if event.progress is not None:
                        self._progress(event.progress)
            except Unreachable:
                # Events arrived, so the server was up: the timeout starts again.
                if not heard:
                    raise
            return heard

        if self.retry(lambda: api.is_done(job)):
            return self.retry(lambda: api.report(job))
        pause = _FIRST_PAUSE_S
        while True:
            heard = self.retry(listen)
            if self.retry(lambda: api.is_done(job)):
                return self.retry(lambda: api.report(job))
            # A server that is about to stop ends its streams early; do not connect to it in a tight loop.
            pause = self.pause(_FIRST_PAUSE_S if heard else pause)
