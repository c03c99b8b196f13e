# SPDX-License-Identifier: GPL-2.0-or-later
"""The janitor: a job's row and its execution that disagree are brought together, those that agree are left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from elivepatch.model.build import Result, Status
from elivepatch.model.kernel import Digest
from elivepatch.service.database import migrate, open_database, sqlite_url
from elivepatch.service.engine import Engine, Execution
from elivepatch.service.janitor import Janitor
from elivepatch.service.jobs import Asked, Jobs
from elivepatch.service.work import cancelled


class FakeEngine:
    """An engine in any state."""

    def __init__(self) -> None:
        self.state = Execution.WAITING
        self.active = False
        self.asked: list[tuple[str, str]] = []
        self.looked_at: list[str] = []

    def execution(self, job: str) -> Execution:
        self.looked_at.append(job)
        return self.state

    def is_active(self, job: str) -> bool:
        self.looked_at.append(job)
        return self.active

    def submit(self, job: str) -> None:
        self.asked.append(("submit", job))

    def resume(self, job: str) -> None:
        self.asked.append(("resume", job))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    engine = open_database(sqlite_url(tmp_path / "db"))
    migrate(engine)
    yield Jobs(engine)
    engine.dispose()


def submit(jobs: Jobs) -> str:
    asked = Asked(
        job_key=Digest("aa" * 32), build_key=Digest("bb" * 32), release="6.1.0", kernel_build_id="", request={}
    )
    return jobs.submit(asked)[0].id


def test_a_job_that_never_reached_the_engine_is_handed_over_at_the_second_sight(jobs: Jobs) -> None:
    engine = FakeEngine()
    janitor = Janitor(jobs, cast("Engine", engine))
    job = submit(jobs)
    engine.state = Execution.UNKNOWN
    janitor.look()
    assert engine.asked == []
    janitor.look()
    assert engine.asked == [("submit", job)]


def test_an_execution_that_nobody_runs_is_resumed(jobs: Jobs) -> None:
    engine = FakeEngine()
    janitor = Janitor(jobs, cast("Engine", engine))
    job = submit(jobs)
    engine.state = Execution.RUNNING
    janitor.look()
    janitor.look()
    assert engine.asked == [("resume", job)]


def test_an_execution_that_ended_without_an_answer_gets_one(jobs: Jobs) -> None:
    engine = FakeEngine()
    janitor = Janitor(jobs, cast("Engine", engine))
    job = submit(jobs)
    jobs.begin(job)
    engine.state = Execution.ENDED
    janitor.look()
    janitor.look()
    ended = jobs.get(job)
    assert ended is not None
    assert (ended.status, ended.result) == (Status.DONE, Result.ERROR)


@pytest.mark.parametrize(
    ("state", "active"), [(Execution.WAITING, False), (Execution.RUNNING, True), (Execution.ENDED, True)]
)
def test_what_agrees_is_left_alone(jobs: Jobs, state: Execution, active: bool) -> None:
    engine = FakeEngine()
    engine.state, engine.active = state, active
    janitor = Janitor(jobs, cast("Engine", engine))
    job = submit(jobs)
    for _ in range(4):
        janitor.look()
    kept = jobs.get(job)
    assert kept is not None
    assert (engine.asked, kept.status) == ([], Status.QUEUED)


def test_a_job_that_is_done_is_not_looked_at(jobs: Jobs) -> None:
    engine = FakeEngine()
    engine.state = Execution.UNKNOWN
    jobs.cancel(submit(jobs), cancelled())
    janitor = Janitor(jobs, cast("Engine", engine))
    janitor.look()
    janitor.look()
    assert engine.asked == []


def test_a_round_that_fails_is_not_the_last(jobs: Jobs) -> None:
    engine = FakeEngine()
    looks: list[int] = []

    def fails_once(job: str) -> Execution:
        looks.append(1)
        if len(looks) == 1:
            raise OSError(28, "No space left on device")
        return Execution.UNKNOWN

    engine.execution = fails_once  # type: ignore[method-assign]
    submit(jobs)
    janitor = Janitor(jobs, cast("Engine", engine), interval_s=0.02)
    janitor.start()
    deadline = time.monotonic() + 10
    while not engine.asked and time.monotonic() < deadline:
        time.sleep(0.02)
    janitor.stop()
    assert engine.asked
