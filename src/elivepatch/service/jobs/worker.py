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
from elivepatch.service.jobs.heartbeat import Pulse
from elivepatch.service.jobs.janitor import Janitor
from elivepatch.service.jobs.steps import JobSteps
from elivepatch.service.parts import WORK_DIRECTORY, Parts, make_state_directory, open_parts, require_shared
from elivepatch.service.state_lock import alone
from elivepatch.settings import ServerSettings

_JOBS_S = 4

_logger = structlog.get_logger()


class Worker:
    """Runs the jobs that the backend can do, from `start` to `stop`."""

    def __init__(self, parts: Parts, backend: BuildBackend) -> None:
        self._parts = parts
        jobs = parts.worker_jobs
        self.steps = JobSteps(
            jobs=jobs,
            store=parts.store,
            backend=backend,
            directory=parts.settings.state_dir / WORK_DIRECTORY,
            step_limit_s=parts.settings.step_limit_s,
        )
        self.runner = Runner(parts.engine_url, self.steps, name=parts.worker_name)
        self.pulse = Pulse(
            name=parts.worker_name,
            database=parts.database,
            jobs=parts.jobs,
            store=parts.store,
            engine=parts.engine,
            backend=backend,
            steps=self.steps,
            runner=self.runner,
        )
        self.janitor = Janitor(parts.jobs, parts.engine, parts.fleet, runner=self.runner, worker=parts.worker_name)

    def start(self) -> None:
        """Sweep what a process before left behind, and run jobs; raises EnvironmentFault where the name is taken."""
        self.steps.sweep()
        self.pulse.start()
        self.janitor.start()

    def interrupt(self) -> None:
        """End the programs of running jobs; the jobs are left to the next start or to other workers."""
        self.steps.stop()

    def stop(self) -> list[str]:
        """Run no more jobs; return the names of threads that do not end."""
        self.steps.stop()
        self.janitor.stop()
        self.runner.stop(grace_s=_JOBS_S)
        self.pulse.stop()
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
    with alone(settings.state_dir / "server.lock"):
        parts = open_parts(settings)
        worker = Worker(parts, backend)
        worker.start()
        _logger.info("worker.started", worker=parts.worker_name)
        # A waiting thread hears signals only between waits.
        while not stop.wait(0.5):
            pass
        left = worker.stop()
        parts.close()
        _logger.info("worker.stopped", busy_threads=left)
        if left:
            # A step that does not heed its cancellation; nothing it still does would be recorded.
            os._exit(0)
