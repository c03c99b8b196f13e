# SPDX-License-Identifier: GPL-2.0-or-later
"""A bound on the progress events of a step: a flood of them is thinned and is never an error."""

from __future__ import annotations

import threading
import time

from elivepatch.model.progress import Event, Progress

MAX_EVENTS = 5000
"""Events of one step that are passed on."""

_INTERVAL_S = 0.1


class ProgressFilter:
    """Passes events on to `progress`: every stage's first and last, and others at most ten times a second."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._stage = ""
        self._at = 0.0
        self._count = 0

    def __call__(self, event: Event) -> None:
        """Pass an event on, or leave it out."""
        with self._lock:
            now = time.monotonic()
            soon = event.stage == self._stage and now - self._at < _INTERVAL_S
            partial = event.fraction is not None and event.fraction not in {0.0, 1.0}
            if (soon and partial) or self._count >= MAX_EVENTS:
                return
            self._stage, self._at, self._count = event.stage, now, self._count + 1
        self._progress(event)
