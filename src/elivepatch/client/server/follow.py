# SPDX-License-Identifier: GPL-2.0-or-later
"""Waits for a job and tells its progress, over lost connections and a server that is started anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Unreachable
from elivepatch.client.server.report import Report
from elivepatch.model.progress import Event, Progress

PATIENCE_S = 60.0
"""How long a server may be away before we give up."""

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 3.0

_Answer = TypeVar("_Answer")


class JobFollower:
    """Asks again while the server is away, `PATIENCE_S` at most."""

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
        """Return what `question` returns, asked again while it raises Unreachable; raises that in the end."""
        lost_at: float | None = None
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return question()
            except Unreachable:
                now = self._clock()
                if lost_at is None:
                    lost_at = now
                    message = f"the server is away, asking again for {PATIENCE_S:.0f} s"
                    self._progress(Event(stage="wait", message=message))
                if now - lost_at >= PATIENCE_S:
                    raise
            pause = self.pause(pause)

    def pause(self, seconds: float) -> float:
        """Wait, and return how long to wait the next time."""
        self._sleep(seconds)
        return min(seconds * 2, _LONGEST_PAUSE_S)

    def follow(self, api: ServerClient, job: str) -> Report:
        """Return the job's report when it is done; tell on the way what it does, each event once."""
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
                # Whoever told something was there: patience starts anew.
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
            # A server that is about to stop ends its streams early.
            pause = self.pause(_FIRST_PAUSE_S if heard else pause)
