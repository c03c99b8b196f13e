# SPDX-License-Identifier: GPL-2.0-or-later
"""Durable execution: a job's steps are run, each to its end, though the process be killed between or within them.

The only module that knows DBOS. A step that ended is not run again after a crash, a step that was cut off is; so
every step does the same when it is done twice. What DBOS keeps is where a job's execution stands and nothing else.

`Engine` hands jobs over and knows where they stand; any process may have one. `Runner` runs them; it is one per
process, since DBOS is a singleton. Jobs wait in one line per route; a runner listens to the routes that it can serve.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, StepOptions

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.db.database import CONNECTION_OPTIONS, advisory_lock, open_database
from elivepatch.service.jobs.dispatch import POLL_S, Dispatcher

APPLICATION_VERSION = "2"
"""Of what the steps hand to each other. DBOS leaves jobs of another version alone: raise it when that changes."""

_NAME = "elivepatch"
_WORKFLOW = "job"
_STOP_POLL_S = 0.2
_MIGRATING = 0x656C7002
# A backstop far above the attempts that a job has (work.MAX_ATTEMPTS): restarts by hand count here too.
_MAX_RECOVERIES = 1000
_AT_ONCE = 200

Json = dict[str, Any]
_Answer = TypeVar("_Answer")


class Stopped(BaseException):
    """Raised out of a step because the worker stops or has lost the job: the job is taken up again elsewhere or later.

    Not an Exception: DBOS records those as the step's answer.
    """


class Execution(enum.Enum):
    """Where a job's execution stands."""

    UNKNOWN = enum.auto()
    WAITING = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


@dataclass(frozen=True, slots=True)
class ExecutionState:
    """Where a job's execution stands and, where it runs, on which worker."""

    execution: Execution
    worker: str = ""


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


def prepare(url: str) -> None:
    """Make DBOS's tables, or bring them to this version's."""
    database = open_database(url)
    try:
        # The first connection turns on SQLite's WAL, which DBOS does not ask for: the mode is the file's and stays.
        database.connect().close()
        with advisory_lock(database, _MIGRATING):
            DBOS.migrate(_for_dbos(url), schema="dbos")
    finally:
        database.dispose()


def _for_dbos(url: str) -> str:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        patience = {name: str(value) for name, value in CONNECTION_OPTIONS.items()}
        parsed = parsed.set(drivername="postgresql").update_query_dict(patience)
    return parsed.render_as_string(hide_password=False)


class Engine:
    """Hands jobs over and tells where their execution stands. `prepare` must have been called on the database."""

    def __init__(self, url: str) -> None:
        self._client = DBOSClient(
            system_database_url=_for_dbos(url),
            serializer=DBOSPortableJSONSerializer(),
            application_name=_NAME,
            retry_connection_errors=False,
        )
        self._closed = threading.Event()
        self._on_waiting: Callable[[str], None] = _nobody

    def notify(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the route of every job that is handed over or put back from now on."""
        self._on_waiting = listener

    def submit(self, job: str, *, route: str, place: int) -> None:
        """Have a job run by a worker of `route`, those with a lower `place` first; twice is the same as once."""
        if self._closed.is_set():
            raise EnvironmentFault(
                "server-stopping",
                "The server is about to stop; it has noted the job.",
                advice="Ask again in a moment; the job runs when the server is back.",
            )
        self._client.enqueue(
            {
                "workflow_name": _WORKFLOW,
                "queue_name": route,
                "workflow_id": job,
                "app_version": APPLICATION_VERSION,
                "priority": max(1, place),
            },
            job,
        )
        self._on_waiting(route)

    def state(self, job: str) -> ExecutionState:
        """Return where a job's execution stands."""
        return self.states([job])[job]

    def states(self, jobs: Sequence[str]) -> dict[str, ExecutionState]:
        """Return where the execution of each job stands."""
        found = {job: ExecutionState(Execution.UNKNOWN) for job in jobs}
        for start in range(0, len(jobs), _AT_ONCE):
            asked = list(jobs[start : start + _AT_ONCE])
            for status in self._client.list_workflows(workflow_ids=asked, load_input=False, load_output=False):
                found[status.workflow_id] = _state(status.status, status.executor_id)
        return found

    def running_on(self) -> set[str]:
        """Return the names of the workers that have jobs running, alive or not."""
        running = self._client.list_workflows(status="PENDING", load_input=False, load_output=False)
        return {status.executor_id for status in running if status.executor_id}

    def resume(self, job: str, *, route: str) -> None:
        """Put a job back into its line whose execution stands although no process runs it."""
        self._client.resume_workflow(job, queue_name=route)
        self._on_waiting(route)

    def forget(self, jobs: Sequence[str]) -> None:
        """Remove what is kept about the execution of jobs that ended."""
        for start in range(0, len(jobs), _AT_ONCE):
            self._client.delete_workflows(list(jobs[start : start + _AT_ONCE]))

    def stop(self) -> None:
        """Take no more jobs."""
        self._closed.set()

    def close(self) -> None:
        """Let go of the database."""
        self._closed.set()
        self._client.destroy()


def _nobody(_route: str) -> None:
    """Listen to no route: another process runs the jobs."""


def _state(status: str, worker: str | None) -> ExecutionState:
    if status == "PENDING":
        return ExecutionState(Execution.RUNNING, worker or "")
    return ExecutionState(Execution.WAITING if status in {"ENQUEUED", "DELAYED"} else Execution.ENDED)


class Runner:
    """Runs the steps of jobs under the worker's `name`, one step at a time, jobs by their place."""

    def __init__(self, url: str, steps: Steps, *, name: str) -> None:
        self._url = url
        self._steps = steps
        self._name = name
        self._dispatcher = Dispatcher(url, application_version=APPLICATION_VERSION)
        self._active: set[str] = set()
        self._routes: set[str] = set()
        self._turn = threading.Semaphore(1)
        self._stopping = threading.Event()

        def run(job: str) -> None:
            self._run(job)

        DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=_MAX_RECOVERIES)(run)

    def start(self, routes: Collection[str]) -> None:
        """Begin to run jobs of `routes`, those first that an earlier process of this name left behind."""
        DBOS(
            config=DBOSConfig(
                name=_NAME,
                system_database_url=_for_dbos(self._url),
                application_version=APPLICATION_VERSION,
                executor_id=self._name,
                serializer=DBOSPortableJSONSerializer(),
                log_level="WARNING",
                enable_otlp=False,
                run_migrations=False,
            )
        )
        self._dispatcher.launch()
        self.listen(routes)

    def listen(self, routes: Collection[str]) -> None:
        """Take jobs of these routes from now on, and of no others."""
        for route in sorted(set(routes) - self._routes):
            DBOS.register_queue(route, worker_concurrency=1, polling_interval_sec=POLL_S, on_conflict="always_update")
        self._routes |= set(routes)
        self._dispatcher.listen(routes)

    def wake(self, route: str) -> None:
        """Start the next job of a route now; otherwise jobs of other processes are found after a moment."""
        self._dispatcher.ring(route)

    def is_active(self, job: str) -> bool:
        """Return whether this process runs the job's steps."""
        return job in self._active

    def take_over(self, worker: str) -> int:
        """Put the jobs that a dead worker ran back into their lines and return how many they were.

        A job that meanwhile runs on another worker is left alone: its row names that one.
        """
        # The one call that compares the worker's name in the statement that moves the job; DBOS gives it to its own
        # control plane only. resume_workflows would take a job from under a living worker.
        taken = len(DBOS._recover_pending_workflows([worker]))  # noqa: SLF001 - see above
        self._dispatcher.look()
        return taken

    def stop(self, *, grace_s: int) -> None:
        """Take no more jobs and wait at most `grace_s` seconds for steps to end or to raise Stopped."""
        self._stopping.set()
        self._dispatcher.stop()
        DBOS.destroy(workflow_completion_timeout_sec=grace_s, destroy_registry=True)
        self._dispatcher.close()

    def _run(self, job: str) -> None:
        self._active.add(job)
        try:
            if self._steps.begin(job):
                built: Json = DBOS.run_step(StepOptions(name="build"), self._in_turn, self._steps.build, job)
                tried: Json = DBOS.run_step(StepOptions(name="trial"), self._in_turn, self._steps.trial, job, built)
                DBOS.run_step(StepOptions(name="publish"), self._steps.publish, job, built, tried)
        finally:
            self._active.discard(job)
            # The next one of this route may start.
            self._dispatcher.look()

    def _in_turn(self, step: Callable[..., _Answer], *given: Any) -> _Answer:
        """Do a step when no other one is being done: every route has its own line, the machine is one."""
        while not self._turn.acquire(timeout=_STOP_POLL_S):
            if self._stopping.is_set():
                raise Stopped
        try:
            return step(*given)
        finally:
            self._turn.release()
