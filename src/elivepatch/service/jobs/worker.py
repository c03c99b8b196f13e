# SPDX-License-Identifier: GPL-2.0-or-later
"""A worker: what runs jobs, within the server's process or in one of its own."""

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
        """Sweep what a process before left behind, and run jobs; raises EnvironmentFault where the name is taken."""
        self.steps.sweep()
        self.heartbeat.start()
        self.janitor.start()

    def interrupt(self) -> None:
        """End the programs of running jobs; the jobs are left to the next start or to other workers."""
        self.steps.stop()

    def stop(self) -> list[str]:
        """Run no more jobs; return the names of threads that do not end."""
        self.steps.stop()
        self.janitor.stop()
        self.runner.stop(grace_s=_JOBS_S)
        self.heartbeat.stop()
        self._backend.close()
        return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("dbos-executor"))


def work(settings: ServerSettings, backend: BuildBackend) -> None:
    """Run jobs until SIGTERM or SIGINT, then end within ten seconds.

    Raises UsageError without shared database and store, EnvironmentFault where its name or directory is in use.
    """
    require_shared(settings)
    make_state_directory(settings.state_dir)
    stop = threading.Event()

    def told(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    with state_lock(settings.state_dir):
        resources = open_resources(settings)
        worker = Worker(resources, backend)
        worker.start()
        _logger.info("worker.started", worker=resources.worker_name)
        # A waiting thread hears signals only between waits.
        while not stop.wait(0.5):
            pass
        left = worker.stop()
        resources.close()
        _logger.info("worker.stopped", busy_threads=left)
        if left:
            # A step that does not heed its cancellation; nothing it still does would be recorded.
            os._exit(0)
