# SPDX-License-Identifier: GPL-2.0-or-later
"""Durable execution: steps are done in order, once where they ended, again where they were cut off."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.database import sqlite_url
from elivepatch.service.engine import Engine, Execution, Json, Stopped

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

    def begin(self, job: str) -> bool:
        self.lines.append(("begin", job))
        return job != "not-wanted"

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


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Diary], Engine]]:
    running: list[Engine] = []

    def start_one(diary: Diary) -> Engine:
        engine = Engine(sqlite_url(tmp_path / "engine.db"), diary)
        engine.start()
        running.append(engine)
        return engine

    yield start_one
    for engine in running:
        engine.stop(grace_s=0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_steps_of_a_job_are_done_in_order(start: Callable[[Diary], Engine]) -> None:
    diary = Diary()
    engine = start(diary)
    engine.submit("one")
    until(lambda: engine.execution("one") is Execution.ENDED)
    assert diary.lines == [
        ("begin", "one"),
        ("build", "one"),
        ("trial", "of one, one"),
        ("publish", "of one {'seen': 1.5, 'none': None}, one"),
    ]
    assert engine.execution("another") is Execution.UNKNOWN


def test_a_job_that_is_submitted_twice_runs_once(start: Callable[[Diary], Engine]) -> None:
    diary = Diary()
    engine = start(diary)
    engine.submit("one")
    engine.submit("one")
    until(lambda: engine.execution("one") is Execution.ENDED)
    engine.submit("one")
    time.sleep(0.6)
    assert diary.lines.count(("build", "one")) == 1


def test_a_job_that_is_not_wanted_any_more_ends_at_once(start: Callable[[Diary], Engine]) -> None:
    diary = Diary()
    engine = start(diary)
    engine.submit("not-wanted")
    until(lambda: engine.execution("not-wanted") is Execution.ENDED)
    assert diary.lines == [("begin", "not-wanted")]


def test_one_job_runs_at_a_time_the_oldest_first(start: Callable[[Diary], Engine]) -> None:
    diary = Diary()
    engine = start(diary)
    for name in ("held-1", "b", "a"):
        engine.submit(name)
    until(lambda: ("build", "held-1") in diary.lines)
    assert engine.is_active("held-1")
    assert engine.execution("a") is Execution.WAITING
    diary.hold.set()
    until(lambda: engine.execution("a") is Execution.ENDED)
    assert [job for step, job in diary.lines if step == "build"] == ["held-1", "b", "a"]
    assert diary.most_at_once == 1


def test_a_job_that_a_stop_cut_off_is_taken_up_at_the_next_start(start: Callable[[Diary], Engine]) -> None:
    first = Diary()
    engine = start(first)
    engine.submit("held")
    until(lambda: ("build", "held") in first.lines)
    first.stopping.set()
    started = time.monotonic()
    engine.stop(grace_s=5)
    assert time.monotonic() - started < 5
    with pytest.raises(EnvironmentFault) as refused:
        engine.submit("late")
    assert refused.value.problem.code == "server-stopping"

    second = Diary()
    second.hold.set()
    engine = start(second)
    until(lambda: engine.execution("held") is Execution.ENDED)
    assert second.lines == [
        ("begin", "held"),
        ("build", "held"),
        ("trial", "of held, held"),
        ("publish", "of held {'seen': 1.5, 'none': None}, held"),
    ]


def test_nothing_of_python_s_own_is_written_into_the_database(start: Callable[[Diary], Engine], tmp_path: Path) -> None:
    engine = start(Diary())
    engine.submit("one")
    until(lambda: engine.execution("one") is Execution.ENDED)
    with sqlite3.connect(tmp_path / "engine.db") as database:
        kinds = set(database.execute("SELECT serialization FROM workflow_status").fetchall())
        kinds |= set(database.execute("SELECT serialization FROM operation_outputs").fetchall())
        assert kinds == {("portable_json",)}
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()
