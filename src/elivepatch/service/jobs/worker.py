# SPDX-License-Identifier: GPL-2.0-or-later
"""A worker: runs jobs, within the server's process or in a process of its own."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import structlog

from elivepatch.service.jobs.backend import BuildBackend
from elivepatch.service.jobs.engine import Runner
from elivepatch.service.jobs.heartbeat import Heartbeat
from elivepatch.service.jobs.janitor import Janitor
from elivepatch.service.jobs.steps import JobSteps
from elivepatch.service.resources import Resources, open_resources, require_shared
from elivepatch.service.state_directory import WORK_DIRECTORY, make_state_directory, state_lock
from elivepatch.settings import ServerSettings

_JOBS_S = 4

_logger = structlog.get_logger()


class Worker:
    """Runs the jobs that the backend can do, from `start` to `stop`."""

    def __init__(self, resources: Resources, backend: BuildBackend) -> None:
        self._backend = backend
        jobs = resources.worker_jobs
        self.steps = JobSteps(
            jobs=jobs,
            store=resources.store,
            backend=backend,
            directory=resources.settings.state_dir / WORK_DIRECTORY,
            step_limit_s=resources.settings.step_limit_s,
        )
        self.runner = Runner(resources.engine_url, self.steps, name=resources.worker_name)
        resources.engine.notify(self.runner.wake)
        self.heartbeat = Heartbeat(
            name=resources.worker_name,
            database=resources.database,
            jobs=resources.jobs,
            store=resources.store,
            engine=resources.engine,
            backend=backend,
            steps=self.steps,
            runner=self.runner,
        )
        self.janitor = Janitor(
            resources.jobs, resources.engine, resources.fleet, runner=self.runner, worker=resources.worker_name
        )

    def start(self) -> None:
        """Remove the files of an earlier process, and run jobs; raises EnvironmentFault if the name is taken."""
        self.steps.sweep()
        self.heartbeat.start()
        self.janitor.start()

    def interrupt(self) -> None:
        """End the running steps; the next start or another worker takes the jobs up again."""
        self.steps.stop()

    def stop(self) -> list[str]:
        """Run no more jobs, and return the names of threads that do not end."""
        self.steps.stop()
        self.janitor.stop()
        self.runner.stop(grace_s=_JOBS_S)
        self.heartbeat.stop()
        self._backend.close()
        return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("dbos-executor"))


def work(settings: ServerSettings, backend: BuildBackend) -> None:
    """Run jobs until SIGTERM or SIGINT, then end within ten seconds.

    Raises UsageError without a shared database and store, EnvironmentFault if its name or directory is in use.
    """
    require_shared(settings)
    make_state_directory(settings.state_dir)
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with state_lock(settings.state_dir):
        resources = open_resources(settings)
        worker = Worker(resources, backend)
        worker.start()
        _logger.info("worker.started", worker=resources.worker_name)
        # Python runs signal handlers only between two waits.
        while not stop.wait(0.5):
            pass
        left = worker.stop()
        resources.close()
        _logger.info("worker.stopped", busy_threads=left)
        if left:
            # A step that ignores its cancellation; nothing that it still does would be recorded.
            os._exit(0)
