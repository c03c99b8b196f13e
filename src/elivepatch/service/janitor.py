# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds jobs whose row and whose execution disagree, and brings them together again.

The job's row and its execution are kept apart, so a crash or a full disk can come between the two: a job that was
noted but never handed to the engine, an execution that ended without being able to say so, one that nobody runs.
"""

from __future__ import annotations

import threading

import structlog

from elivepatch.service.engine import Engine, Execution
from elivepatch.service.faults import INTERNAL
from elivepatch.service.jobs import Jobs
from elivepatch.service.work import cancelled, failed

_logger = structlog.get_logger()


class Janitor:
    """Looks over the unfinished jobs every `interval_s` seconds.

    A disagreement counts when it is seen in two rounds: in between, one of the two may just be on its way.
    """

    def __init__(self, jobs: Jobs, engine: Engine, *, interval_s: float = 10.0) -> None:
        self._jobs = jobs
        self._engine = engine
        self._interval_s = interval_s
        self._suspects: dict[str, Execution] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._rounds, name="janitor", daemon=True)

    def start(self) -> None:
        """Begin to look, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def look(self) -> None:
        """Go round once."""
        seen: dict[str, Execution] = {}
        for job in self._jobs.unfinished():
            execution = self._engine.execution(job.id)
            if execution is Execution.WAITING or self._engine.is_active(job.id):
                continue
            if self._suspects.get(job.id) is execution:
                self._mend(job.id, execution)
            else:
                seen[job.id] = execution
        self._suspects = seen

    def _mend(self, job: str, execution: Execution) -> None:
        _logger.warning("job.mended", job=job, execution=execution.name.lower())
        if execution is Execution.UNKNOWN:
            self._engine.submit(job)
        elif execution is Execution.RUNNING:
            self._engine.resume(job)
        else:
            self._jobs.finish(job, failed(INTERNAL), cancelled())

    def _rounds(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.look()
            except Exception:
                # A round that fails, on a full disk for one, must not be the last.
                _logger.exception("janitor.round-failed")
