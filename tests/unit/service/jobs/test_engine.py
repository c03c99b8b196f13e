# SPDX-License-Identifier: GPL-2.0-or-later
"""Durable execution: steps are done in order; one that ended is not repeated, one that was cut off is."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deadline import wait_until

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.db.database import sqlite_url
from elivepatch.service.jobs.engine import Engine, Execution, ExecutionState, Json, Runner, Stopped, prepare
from elivepatch.service.jobs.fleet import KERNEL_ROUTE

DEADLINE_S = 20.0


class Diary:
    """Steps that write down what they were asked."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.hold = threading.Event()
        self.stopping = threading.Event()
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def begin(self, job: str) -> str:
        self.lines.append(("begin", job))
        if job == "not-wanted":
            return ""
        return KERNEL_ROUTE if job.startswith("kernel") else "a-route"

    def make_base(self, job: str) -> Json:
        self.lines.append(("base", job))
        while not self.hold.is_set():
            if self.stopping.wait(0.02):
                raise Stopped
        return {"base": f"of {job}"}

    def publish_base(self, job: str, made: Json) -> None:
        self.lines.append(("publish", f"{made['base']}, {job}"))

    def build(self, job: str) -> Json:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.lines.append(("build", job))
        while job.startswith("held") and not self.hold.is_set():
            if self.stopping.wait(0.02):
                raise Stopped
        with self._lock:
            self.at_once -= 1
        return {"made": f"of {job}"}

    def trial(self, job: str, built: Json) -> Json:
        self.lines.append(("trial", f"{built['made']}, {job}"))
        return {"seen": 1.5, "none": None}

    def publish(self, job: str, built: Json, tried: Json) -> None:
        self.lines.append(("publish", f"{built['made']} {tried}, {job}"))


class House:
    """An engine and a runner on one database."""

    def __init__(self, url: str, diary: Diary, name: str = "one") -> None:
        self.engine = Engine(url)
        self.runner = Runner(url, diary, name=name)
        self.engine.notify(self.runner.wake)
        self.runner.start(["line"])

    def submit(self, job: str, *, place: int = 1, route: str = "line") -> None:
        self.engine.submit(job, route=route, place=place)

    def execution(self, job: str) -> Execution:
        return self.engine.state(job).execution

    def stop(self, grace_s: int = 0) -> None:
        self.engine.stop()
        self.runner.stop(grace_s=grace_s)
        self.engine.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., House]]:
    running: list[House] = []
    url = sqlite_url(tmp_path / "engine.db")
    prepare(url)

    def start_one(diary: Diary, name: str = "one") -> House:
        house = House(url, diary, name)
        running.append(house)
        return house

    yield start_one
    for house in running:
        house.stop()


def until(condition: Callable[[], bool]) -> None:
    wait_until(condition, within_s=DEADLINE_S)


def test_jobs_of_kernels_go_on_while_the_base_of_another_is_made(start: Callable[..., House]) -> None:
    diary = Diary()
    house = start(diary)
    house.submit("kernel-one", route=KERNEL_ROUTE)
    until(lambda: ("base", "kernel-one") in diary.lines)
    house.submit("livepatch")
    until(lambda: house.execution("livepatch") is Execution.ENDED)
    assert house.execution("kernel-one") is Execution.RUNNING
    diary.hold.set()
    until(lambda: ("publish", "of kernel-one, kernel-one") in diary.lines)


def test_the_steps_of_a_job_are_done_in_order(start: Callable[..., House]) -> None:
    diary = Diary()
    house = start(diary)
    house.submit("one")
    until(lambda: house.execution("one") is Execution.ENDED)
    assert diary.lines == [
        ("begin", "one"),
        ("build", "one"),
        ("trial", "of one, one"),
        ("publish", "of one {'seen': 1.5, 'none': None}, one"),
    ]
    assert house.engine.state("another") == ExecutionState(Execution.UNKNOWN)


def test_a_job_that_is_submitted_twice_runs_once(start: Callable[..., House]) -> None:
    diary = Diary()
    house = start(diary)
    house.submit("one")
    house.submit("one")
    until(lambda: house.execution("one") is Execution.ENDED)
    house.submit("one")
    time.sleep(0.6)
    assert diary.lines.count(("build", "one")) == 1


def test_a_job_that_is_not_wanted_any_more_ends_at_once(start: Callable[..., House]) -> None:
    diary = Diary()
    house = start(diary)
    house.submit("not-wanted")
    until(lambda: house.execution("not-wanted") is Execution.ENDED)
    assert diary.lines == [("begin", "not-wanted")]


def test_one_job_runs_at_a_time_by_its_place_then_the_oldest_first(start: Callable[..., House]) -> None:
    diary = Diary()
    house = start(diary)
    house.submit("held-1")
    until(lambda: ("build", "held-1") in diary.lines)
    for name, place in (("d", 4), ("b", 2), ("a", 2), ("c", 3)):
        house.submit(name, place=place)
    assert house.runner.is_active("held-1")
    assert house.engine.state("held-1") == ExecutionState(Execution.RUNNING, "one")
    assert house.engine.running_on() == {"one"}
    assert house.execution("a") is Execution.WAITING
    diary.hold.set()
    until(lambda: house.execution("d") is Execution.ENDED)
    assert [job for step, job in diary.lines if step == "build"] == ["held-1", "b", "a", "c", "d"]


def test_a_job_waits_for_a_worker_of_its_route(start: Callable[..., House]) -> None:
    diary = Diary()
    house = start(diary)
    house.submit("elsewhere", route="another")
    time.sleep(1.5)
    assert house.execution("elsewhere") is Execution.WAITING
    house.runner.listen(["line", "another"])
    until(lambda: house.execution("elsewhere") is Execution.ENDED)
    house.runner.listen(["another"])
    house.submit("back", route="another")
    until(lambda: house.execution("back") is Execution.ENDED)


def test_one_step_is_done_at_a_time_whatever_the_routes(start: Callable[..., House]) -> None:
    diary = Diary()
    house = start(diary)
    house.runner.listen(["line", "another"])
    house.submit("held-1")
    house.submit("held-2", route="another")
    until(lambda: any(step == "build" for step, _ in diary.lines))
    time.sleep(1.5)
    diary.hold.set()
    until(lambda: house.execution("held-1") is house.execution("held-2") is Execution.ENDED)
    assert diary.most_at_once == 1


def test_a_job_that_a_stop_cut_off_is_taken_up_at_the_next_start(start: Callable[..., House]) -> None:
    first = Diary()
    house = start(first)
    house.submit("held")
    until(lambda: ("build", "held") in first.lines)
    first.stopping.set()
    started = time.monotonic()
    house.stop(grace_s=5)
    assert time.monotonic() - started < 5
    with pytest.raises(EnvironmentFault) as refused:
        house.submit("late")
    assert refused.value.problem.code == "server-stopping"

    second = Diary()
    second.hold.set()
    house = start(second)
    until(lambda: house.execution("held") is Execution.ENDED)
    assert second.lines == [
        ("begin", "held"),
        ("build", "held"),
        ("trial", "of held, held"),
        ("publish", "of held {'seen': 1.5, 'none': None}, held"),
    ]


def test_the_jobs_of_a_dead_worker_are_taken_over_and_those_of_a_living_one_are_not(
    start: Callable[..., House],
) -> None:
    first = Diary()
    house = start(first, name="dead")
    house.submit("held")
    until(lambda: ("build", "held") in first.lines)
    first.stopping.set()
    house.stop(grace_s=5)

    second = Diary()
    house = start(second, name="alive")
    time.sleep(1)
    assert second.lines == []
    assert house.runner.take_over("dead") == 1
    until(lambda: ("build", "held") in second.lines)
    assert house.engine.state("held") == ExecutionState(Execution.RUNNING, "alive")
    assert house.runner.take_over("dead") == 0
    second.hold.set()
    until(lambda: house.execution("held") is Execution.ENDED)
    assert second.lines.count(("build", "held")) == 1


def test_what_is_forgotten_is_unknown(start: Callable[..., House]) -> None:
    house = start(Diary())
    house.submit("one")
    until(lambda: house.execution("one") is Execution.ENDED)
    house.engine.forget(["one"])
    assert house.execution("one") is Execution.UNKNOWN


def test_nothing_of_python_s_own_is_written_into_the_database(start: Callable[..., House], tmp_path: Path) -> None:
    house = start(Diary())
    house.submit("one")
    until(lambda: house.execution("one") is Execution.ENDED)
    with sqlite3.connect(tmp_path / "engine.db") as database:
        kinds = set(database.execute("SELECT serialization FROM workflow_status").fetchall())
        kinds |= set(database.execute("SELECT serialization FROM operation_outputs").fetchall())
        assert kinds == {("portable_json",)}
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()
