# SPDX-License-Identifier: GPL-2.0-or-later
"""Durable execution: a job's steps are run, each to its end, though the process be killed between or within them.

The only module that knows DBOS. A step that ended is not run again after a crash, a step that was cut off is; so
every step does the same when it is done twice. What DBOS keeps is where a job's execution stands and nothing else.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, Queue, SetWorkflowID, StepOptions

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.database import open_database

APPLICATION_VERSION = "1"
"""Of what the steps hand to each other. DBOS leaves jobs of another version alone: raise it when that changes."""

_EXECUTOR = "server"
_QUEUE = "builds"
_POLL_S = 0.2
# A backstop far above the attempts that a job has (work.MAX_ATTEMPTS): restarts by hand count here too.
_MAX_RECOVERIES = 1000

Json = dict[str, Any]


class Stopped(BaseException):
    """Raised out of a step because the server stops: the job stays as it is and is taken up at the next start.

    Not an Exception: DBOS records those as the step's answer.
    """


class Execution(enum.Enum):
    """Where a job's execution stands."""

    UNKNOWN = enum.auto()
    WAITING = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


class Steps(Protocol):
    """What is done with a job, in this order. Values are JSON; all but `begin` are recorded when they end."""

    def begin(self, job: str) -> bool:
        """Take the job up, at every attempt; False where nothing is to be done."""

    def build(self, job: str) -> Json:
        """Build it and return what came of it."""

    def trial(self, job: str, built: Json) -> Json:
        """Try what was built and return what was seen."""

    def publish(self, job: str, built: Json, tried: Json) -> None:
        """Make the answer known."""


class Engine:
    """Runs the steps of submitted jobs, `at_once` at a time, oldest first. One per process: DBOS is a singleton."""

    def __init__(self, url: str, steps: Steps, *, at_once: int = 1) -> None:
        self._url = url
        self._at_once = at_once

        self._active: set[str] = set()

        def run(job: str) -> None:
            self._active.add(job)
            try:
                if steps.begin(job):
                    built: Json = DBOS.run_step(StepOptions(name="build"), steps.build, job)
                    tried: Json = DBOS.run_step(StepOptions(name="trial"), steps.trial, job, built)
                    DBOS.run_step(StepOptions(name="publish"), steps.publish, job, built, tried)
            finally:
                self._active.discard(job)

        self._workflow = DBOS.workflow(name="job", max_recovery_attempts=_MAX_RECOVERIES)(run)
        self._queue: Queue | None = None

    def start(self) -> None:
        """Begin to run jobs, those first that an earlier process left behind."""
        # For SQLite's WAL, which DBOS does not ask for: the mode is a property of the file and stays.
        database = open_database(self._url)
        database.connect().close()
        database.dispose()
        DBOS(
            config=DBOSConfig(
                name="elivepatch",
                system_database_url=self._url,
                application_version=APPLICATION_VERSION,
                executor_id=_EXECUTOR,
                serializer=DBOSPortableJSONSerializer(),
                log_level="WARNING",
                enable_otlp=False,
            )
        )
        DBOS.launch()
        self._queue = DBOS.register_queue(
            _QUEUE, worker_concurrency=self._at_once, polling_interval_sec=_POLL_S, on_conflict="always_update"
        )

    def submit(self, job: str) -> None:
        """Have a job run; doing it twice is the same as once."""
        if self._queue is None:
            raise EnvironmentFault(
                "server-stopping",
                "The server is about to stop; it has noted the job.",
                advice="Ask again in a moment; the job runs when the server is back.",
            )
        with SetWorkflowID(job):
            self._queue.enqueue(self._workflow, job)

    def execution(self, job: str) -> Execution:
        """Return where a job's execution stands."""
        status = DBOS.get_workflow_status(job)
        if status is None:
            return Execution.UNKNOWN
        return {"ENQUEUED": Execution.WAITING, "DELAYED": Execution.WAITING, "PENDING": Execution.RUNNING}.get(
            status.status, Execution.ENDED
        )

    def is_active(self, job: str) -> bool:
        """Return whether this process runs the job's steps."""
        return job in self._active

    def resume(self, job: str) -> None:
        """Put a job back into the queue whose execution stands although no process runs it."""
        DBOS.resume_workflow(job, queue_name=_QUEUE)

    def stop(self, *, grace_s: int) -> None:
        """Take no more jobs and wait at most `grace_s` seconds for steps to end or to raise Stopped."""
        self._queue = None
        DBOS.destroy(workflow_completion_timeout_sec=grace_s, destroy_registry=True)
