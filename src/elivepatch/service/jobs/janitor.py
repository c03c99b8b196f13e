# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds jobs whose row and whose execution disagree, and brings them together again.

The job's row and its execution are kept apart, so a crash or a full disk can come between the two: a job that was
noted but never handed to the engine, an execution that ended without being able to say so, one that nobody runs.
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
    """Looks over the unfinished jobs every `interval_s` seconds; every process may have one.

    A disagreement counts when it is seen in two rounds: in between, one of the two may just be on its way. `runner` is
    what runs jobs in this process under the name `worker`; the jobs of other workers are theirs.
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
        """Begin to look, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def look(self) -> None:
        """Go round once."""
        seen: dict[str, ExecutionState] = {}
        unfinished = self._jobs.unfinished()
        states = self._engine.states([job.id for job in unfinished])
        routes = self._fleet.routes()
        for job in unfinished:
            state = states[job.id]
            if self._agrees(job, state, routes):
                continue
            if self._suspects.get(job.id) == state:
                self._mend(job, state)
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

    def _mend(self, job: Job, state: ExecutionState) -> None:
        _logger.warning("job.mended", job=job.id, execution=state.execution.name.lower())
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
                # A round that fails, on a full disk for one, must not be the last.
                if is_away(error):
                    _logger.warning("janitor.database-away")
                else:
                    _logger.exception("janitor.round-failed")
