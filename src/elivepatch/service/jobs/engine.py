# SPDX-License-Identifier: GPL-2.0-or-later
"""Durable execution: every step of a job runs to its end, even if the process is killed between or within steps.

Only this module and `dispatch` know DBOS. After a crash, DBOS does not repeat a step that ended, and repeats one that
was cut off; so every step can be done twice. DBOS keeps the state of executions and nothing else.

`Engine` submits jobs and reports the state of their execution; any process may have one. `Runner` runs jobs; a process
has one, because DBOS is a singleton. Each route has a queue; a runner serves the queues of its own routes.
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
from elivepatch.service.db.database import advisory_lock, open_database, with_connection_options
from elivepatch.service.jobs.dispatch import POLL_S, Dispatcher
from elivepatch.service.jobs.fleet import KERNEL_ROUTE

APPLICATION_VERSION = "2"
"""Version of the values that steps return. DBOS leaves jobs of another version alone: raise it when they change."""

_NAME = "elivepatch"
_WORKFLOW = "job"
_STOP_POLL_S = 0.2
_MIGRATING = 0x656C7002
# A backstop far above the attempts that a job has (steps.MAX_ATTEMPTS): restarts by hand count here too.
_MAX_RECOVERIES = 1000
_AT_ONCE = 200

Json = dict[str, Any]
_Answer = TypeVar("_Answer")


class Stopped(BaseException):
    """Raised out of a step because the worker stops or has lost the job: the job is taken up again elsewhere or later.

    Not an Exception: DBOS records those as the step's answer.
    """


class Execution(enum.Enum):
    """Stage of a job's execution."""

    UNKNOWN = enum.auto()
    WAITING = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


@dataclass(frozen=True, slots=True)
class ExecutionState:
    """Stage of a job's execution, and the worker that runs it."""

    execution: Execution
    worker: str = ""


class Steps(Protocol):
    """The steps of a job, in this order. Their values are JSON; DBOS records those of all but `begin`.

    A job of the route `KERNEL_ROUTE` makes a base: its steps are `begin`, `make_base` and `publish_base`.
    """

    def begin(self, job: str) -> str:
        """Begin an attempt and return the job's route; an empty text if there is nothing to do."""

    def make_base(self, job: str) -> Json:
        """Make the base of a kernel and return the outcome."""

    def publish_base(self, job: str, made: Json) -> None:
        """Publish the outcome; the kernel is offered from then on."""

    def build(self, job: str) -> Json:
        """Build the module and return the outcome."""

    def trial(self, job: str, built: Json) -> Json:
        """Try the module and return the report."""

    def publish(self, job: str, built: Json, tried: Json) -> None:
        """Publish the report and the module."""


def prepare(url: str) -> None:
    """Create DBOS's tables, or migrate them to this version."""
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
        parsed = with_connection_options(parsed).set(drivername="postgresql")
    return parsed.render_as_string(hide_password=False)


class Engine:
    """Submits jobs and reports the state of their execution. `prepare` must have been called on the database."""

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
        """Call `listener` with the route of every job that this process submits or puts back from now on."""
        self._on_waiting = listener

    def submit(self, job: str, *, route: str, place: int) -> None:
        """Submit a job to the queue of `route`; a lower `place` runs first. Twice is the same as once."""
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
        """Return the state of a job's execution."""
        return self.states([job])[job]

    def states(self, jobs: Sequence[str]) -> dict[str, ExecutionState]:
        """Return the state of the execution of each job."""
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
        """Put a job back into its queue whose execution is running although no process runs it."""
        self._client.resume_workflow(job, queue_name=route)
        self._on_waiting(route)

    def forget(self, jobs: Sequence[str]) -> None:
        """Remove the records of the execution of jobs that ended."""
        for start in range(0, len(jobs), _AT_ONCE):
            self._client.delete_workflows(list(jobs[start : start + _AT_ONCE]))

    def stop(self) -> None:
        """Take no more jobs."""
        self._closed.set()

    def close(self) -> None:
        """Close the connections to the database."""
        self._closed.set()
        self._client.destroy()


def _nobody(_route: str) -> None:
    """Ignore a route: another process runs its jobs."""


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
        # A base takes minutes, and meanwhile the jobs of other kernels go on.
        self._turns = {kind: threading.Semaphore(1) for kind in ("job", "kernel")}
        self._stopping = threading.Event()

        def run(job: str) -> None:
            self._run(job)

        DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=_MAX_RECOVERIES)(run)

    def start(self, routes: Collection[str]) -> None:
        """Begin to run jobs of `routes` and of KERNEL_ROUTE, first those that an earlier process of this name left."""
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
        """Take jobs of these routes and those that make bases from now on, and no others."""
        routes = {*routes, KERNEL_ROUTE}
        for route in sorted(routes - self._routes):
            DBOS.register_queue(route, worker_concurrency=1, polling_interval_sec=POLL_S, on_conflict="always_update")
        self._routes |= routes
        self._dispatcher.listen(routes)

    def wake(self, route: str) -> None:
        """Start the next job of a route now."""
        self._dispatcher.ring(route)

    def is_active(self, job: str) -> bool:
        """Return whether this process runs the job's steps."""
        return job in self._active

    def take_over(self, worker: str) -> int:
        """Put the jobs of a dead worker back into their queues, and return their number.

        A job that runs on another worker meanwhile is left alone: its row names that worker.
        """
        # Only this call compares the worker's name in the statement that moves the job; DBOS has it for its own
        # control plane. resume_workflows would take a job away from a living worker.
        taken = len(DBOS._recover_pending_workflows([worker]))  # noqa: SLF001 - see above
        self._dispatcher.look()
        return taken

    def stop(self, *, grace_s: int) -> None:
        """Take no more jobs, and wait at most `grace_s` seconds until steps end or raise Stopped."""
        self._stopping.set()
        self._dispatcher.stop()
        DBOS.destroy(workflow_completion_timeout_sec=grace_s, destroy_registry=True)
        self._dispatcher.close()

    def _run(self, job: str) -> None:
        self._active.add(job)
        try:
            route = self._steps.begin(job)
            if route == KERNEL_ROUTE:
                made: Json = DBOS.run_step(
                    StepOptions(name="base"), self._in_turn, "kernel", self._steps.make_base, job
                )
                DBOS.run_step(StepOptions(name="publish"), self._steps.publish_base, job, made)
            elif route:
                built: Json = DBOS.run_step(StepOptions(name="build"), self._in_turn, "job", self._steps.build, job)
                tried: Json = DBOS.run_step(
                    StepOptions(name="trial"), self._in_turn, "job", self._steps.trial, job, built
                )
                DBOS.run_step(StepOptions(name="publish"), self._steps.publish, job, built, tried)
        finally:
            self._active.discard(job)
            # The next one of this route may start.
            self._dispatcher.look()

    def _in_turn(self, kind: str, step: Callable[..., _Answer], *given: Any) -> _Answer:
        """Do a step when no other step of its kind runs: every route has its own queue, but there is one machine."""
        while not self._turns[kind].acquire(timeout=_STOP_POLL_S):
            if self._stopping.is_set():
                raise Stopped
        try:
            return step(*given)
        finally:
            self._turns[kind].release()
