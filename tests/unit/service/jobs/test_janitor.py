# SPDX-License-Identifier: GPL-2.0-or-later
"""The janitor: a job's row and its execution that disagree are brought together, those that agree are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
import sqlalchemy as sa
from deadline import wait_until

from elivepatch.model.build import Result, Status
from elivepatch.model.kernel import Digest
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.db.tables import builds
from elivepatch.service.jobs.engine import Engine, Execution, ExecutionState, Runner
from elivepatch.service.jobs.fleet import Fleet
from elivepatch.service.jobs.janitor import Janitor
from elivepatch.service.jobs.jobs import Jobs, NewJob
from elivepatch.service.jobs.steps import cancelled


class FakeEngine:
    """An engine in any state."""

    def __init__(self) -> None:
        self.state = Execution.WAITING
        self.worker = "me"
        self.asked: list[tuple[str, str]] = []
        self.looked_at: list[str] = []

    def states(self, jobs: list[str]) -> dict[str, ExecutionState]:
        self.looked_at += jobs
        return {job: ExecutionState(self.state, self.worker) for job in jobs}

    def submit(self, job: str, **_: object) -> None:
        self.asked.append(("submit", job))

    def resume(self, job: str, **_: object) -> None:
        self.asked.append(("resume", job))


class FakeRunner:
    """A runner that runs all jobs or none."""

    def __init__(self) -> None:
        self.active = False

    def is_active(self, _job: str) -> bool:
        return self.active


class House:
    """A janitor and what it looks over."""

    def __init__(self, database: sa.Engine) -> None:
        self.jobs = Jobs(database)
        self.engine = FakeEngine()
        self.runner = FakeRunner()
        self.janitor = Janitor(
            self.jobs,
            cast("Engine", self.engine),
            Fleet(database),
            runner=cast("Runner", self.runner),
            worker="me",
            interval_s=0.02,
        )
        self.database = database

    def submit(self) -> str:
        asked = NewJob(
            job_key=Digest("aa" * 32), build_key=Digest("bb" * 32), release="6.1.0", kernel_build_id="", request={}
        )
        return self.jobs.submit(asked)[0].id

    def look_twice(self) -> None:
        self.janitor.look()
        self.janitor.look()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    engine = open_database(sqlite_url(tmp_path / "db"))
    migrate(engine)
    yield House(engine)
    engine.dispose()


def test_a_job_that_never_reached_the_engine_is_handed_over_at_the_second_sight(house: House) -> None:
    job = house.submit()
    house.engine.state = Execution.UNKNOWN
    house.janitor.look()
    assert house.engine.asked == []
    house.janitor.look()
    assert house.engine.asked == [("submit", job)]


def test_an_execution_that_nobody_runs_although_it_is_ours_is_resumed(house: House) -> None:
    job = house.submit()
    house.engine.state = Execution.RUNNING
    house.look_twice()
    assert house.engine.asked == [("resume", job)]


def test_an_execution_that_ended_without_an_answer_gets_one(house: House) -> None:
    job = house.submit()
    house.jobs.begin(job)
    house.engine.state = Execution.ENDED
    house.look_twice()
    ended = house.jobs.get(job)
    assert ended is not None
    assert (ended.status, ended.result) == (Status.DONE, Result.ERROR)


@pytest.mark.parametrize(
    ("state", "active", "worker"),
    [
        (Execution.WAITING, False, ""),
        (Execution.RUNNING, True, "me"),
        (Execution.ENDED, True, ""),
        (Execution.RUNNING, False, "another"),
    ],
)
def test_what_agrees_is_left_alone(house: House, state: Execution, active: bool, worker: str) -> None:
    house.engine.state, house.runner.active, house.engine.worker = state, active, worker
    job = house.submit()
    for _ in range(4):
        house.janitor.look()
    kept = house.jobs.get(job)
    assert kept is not None
    assert (house.engine.asked, kept.status) == ([], Status.QUEUED)


def test_a_job_that_no_worker_can_do_any_more_is_ended_after_a_while(house: House) -> None:
    job = house.submit()
    house.look_twice()
    with house.database.begin() as connection:
        connection.execute(sa.update(builds).values(created_at=datetime.now(UTC) - timedelta(hours=1)))
    house.look_twice()
    ended = house.jobs.get(job)
    assert ended is not None
    assert ended.report is not None
    assert (ended.result, ended.report["problem"]["code"]) == (Result.ERROR, "no-worker")


def test_a_job_that_is_done_is_not_looked_at(house: House) -> None:
    house.engine.state = Execution.UNKNOWN
    house.jobs.cancel(house.submit(), cancelled())
    house.look_twice()
    assert house.engine.asked == []


def test_a_round_that_fails_is_not_the_last(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def fails_once(jobs: list[str]) -> dict[str, ExecutionState]:
        looks.append(1)
        if len(looks) == 1:
            raise OSError(28, "No space left on device")
        return {job: ExecutionState(Execution.UNKNOWN) for job in jobs}

    monkeypatch.setattr(house.engine, "states", fails_once)
    house.submit()
    house.janitor.start()
    wait_until(lambda: house.engine.asked)
    house.janitor.stop()
    assert house.engine.asked
