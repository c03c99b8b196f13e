# SPDX-License-Identifier: GPL-2.0-or-later
"""Janitor: finds jobs whose row and execution disagree, and repairs them.

The row of a job and its execution are written separately, so a crash or a full disk can come between the two: a job was
recorded but never submitted to the engine, an execution ended but could not record it, an execution has no process.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import structlog

from elivepatch.model.errors import Problem
from elivepatch.service.db.database import is_away
from elivepatch.service.errors import INTERNAL, NO_WORKER
from elivepatch.service.jobs.engine import Engine, Execution, ExecutionState, Runner
from elivepatch.service.jobs.fleet import KNOWN_S, Fleet
from elivepatch.service.jobs.jobs import Job, Jobs
from elivepatch.service.jobs.steps import cancelled, failed

_logger = structlog.get_logger()


class Janitor:
    """Checks the unfinished jobs every `interval_s` seconds; each process may have a janitor.

    A disagreement counts if two rounds see it: in one, a row or an execution may just be about to be written. `runner`
    runs jobs in this process under the name `worker`; this janitor leaves the jobs of other workers alone.
    """

    def __init__(
        self,
        jobs: Jobs,
        engine: Engine,
        fleet: Fleet,
        *,
        runner: Runner | None = None,
        worker: str = "",
        interval_s: float = 10.0,
    ) -> None:
        self._jobs = jobs
        self._engine = engine
        self._fleet = fleet
        self._runner = runner
        self._worker = worker
        self._interval_s = interval_s
        self._suspects: dict[str, ExecutionState] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._rounds, name="janitor", daemon=True)

    def start(self) -> None:
        """Start the rounds, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the rounds."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def look(self) -> None:
        """Check all unfinished jobs once."""
        seen: dict[str, ExecutionState] = {}
        unfinished = self._jobs.unfinished()
        states = self._engine.states([job.id for job in unfinished])
        routes = self._fleet.routes()
        for job in unfinished:
            state = states[job.id]
            if self._agrees(job, state, routes):
                continue
            if self._suspects.get(job.id) == state:
                self._repair(job, state)
            else:
                seen[job.id] = state
        self._suspects = seen

    def _agrees(self, job: Job, state: ExecutionState, routes: set[str]) -> bool:
        if self._runner is not None and self._runner.is_active(job.id):
            return True
        if state.execution is Execution.WAITING:
            young = datetime.now(UTC) - job.created_at < timedelta(seconds=KNOWN_S)
            return young or job.route in routes
        return state.execution is Execution.RUNNING and state.worker != self._worker

    def _repair(self, job: Job, state: ExecutionState) -> None:
        _logger.warning("job.repaired", job=job.id, execution=state.execution.name.lower())
        if state.execution is Execution.UNKNOWN:
            self._engine.submit(job.id, route=job.route, place=job.place)
        elif state.execution is Execution.RUNNING:
            self._engine.resume(job.id, route=job.route)
        else:
            self._end(job, NO_WORKER if state.execution is Execution.WAITING else INTERNAL)

    def _end(self, job: Job, problem: Problem) -> None:
        self._jobs.finish(job.id, failed(problem), cancelled())

    def _rounds(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.look()
            except Exception as error:
                # The rounds go on after one that fails, for example on a full disk.
                if is_away(error):
                    _logger.warning("janitor.database-away")
                else:
                    _logger.exception("janitor.round-failed")
