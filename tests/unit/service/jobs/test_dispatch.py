# SPDX-License-Identifier: GPL-2.0-or-later
"""Waking of the engine's queue threads: no polling while idle, a start at once when a job comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dbos._dbos
import pytest
from deadline import wait_until

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.db.database import sqlite_url
from elivepatch.service.jobs import dispatch
from elivepatch.service.jobs.dispatch import Doorbell, require_hooks
from elivepatch.service.jobs.engine import Engine, Json, Runner, prepare


class Steps:
    """Steps that do nothing and note when they began."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}

    def begin(self, job: str) -> str:
        self.begun[job] = time.monotonic()
        return ""

    def make_base(self, job: str) -> Json:
        raise NotImplementedError

    def publish_base(self, job: str, made: Json) -> None:
        raise NotImplementedError

    def build(self, job: str) -> Json:
        raise NotImplementedError

    def trial(self, job: str, built: Json) -> Json:
        raise NotImplementedError

    def publish(self, job: str, built: Json, tried: Json) -> None:
        raise NotImplementedError


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(dispatch, "_AWAKE_AT_START_S", 0.0)
    monkeypatch.setattr(dispatch, "_AWAKE_S", 0.3)
    found = sqlite_url(tmp_path / "engine.db")
    prepare(found)
    return found


@pytest.fixture
def idle(url: str) -> Iterator[tuple[Engine, Runner, Steps]]:
    """An engine and a runner of fifty routes that sleep."""
    engine, steps = Engine(url), Steps()
    runner = Runner(url, steps, name="one")
    runner.start([f"route-{number}" for number in range(50)])
    time.sleep(1.0)
    yield engine, runner, steps
    engine.stop()
    runner.stop(grace_s=0)
    engine.close()


def test_an_idle_runner_asks_nothing(idle: tuple[Engine, Runner, Steps], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        type(dbos._dbos._get_dbos_instance()._sys_db), "get_queue", lambda *_, **__: asked.append("queue")
    )
    time.sleep(1.5)
    assert idle[2].begun == {}
    assert asked == []


def test_a_job_that_is_submitted_here_starts_at_once(idle: tuple[Engine, Runner, Steps]) -> None:
    engine, runner, steps = idle
    engine.notify(runner.wake)
    submitted = time.monotonic()
    engine.submit("one", route="route-7", place=1)
    wait_until(lambda: "one" in steps.begun)
    assert steps.begun["one"] - submitted < 1.0


def test_jobs_of_other_processes_are_found_by_looking(idle: tuple[Engine, Runner, Steps]) -> None:
    engine, runner, steps = idle
    engine.submit("one", route="route-7", place=1)
    engine.submit("two", route="route-9", place=1)
    time.sleep(0.5)
    assert steps.begun == {}
    runner._dispatcher.look()
    wait_until(lambda: set(steps.begun) == {"one", "two"})


def test_the_next_job_of_a_route_starts_when_one_ends(idle: tuple[Engine, Runner, Steps]) -> None:
    engine, runner, steps = idle
    for number in range(5):
        engine.submit(f"job-{number}", route="route-7", place=1)
    runner.wake("route-7")
    wait_until(lambda: len(steps.begun) == 5)


def test_a_route_that_is_not_served_any_more_takes_no_jobs(idle: tuple[Engine, Runner, Steps]) -> None:
    engine, runner, steps = idle
    engine.notify(runner.wake)
    runner.listen(["route-1"])
    engine.submit("one", route="route-7", place=1)
    engine.submit("two", route="route-1", place=1)
    wait_until(lambda: "two" in steps.begun)
    time.sleep(0.6)
    assert "one" not in steps.begun
    runner.listen(["route-1", "route-7"])
    wait_until(lambda: "one" in steps.begun)


def test_a_doorbell_waits_for_a_ring_and_not_for_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_AWAKE_S", 0.2)
    bell = Doorbell()
    threading.Timer(0.5, bell.ring).start()
    started = time.monotonic()
    assert not bell.wait(0.01)
    assert time.monotonic() - started > 0.4
    assert not bell.wait(0.01), "awake: the timeout counts"
    time.sleep(0.2)
    threading.Timer(0.2, bell.set).start()
    assert bell.wait(0.01)
    assert bell.is_set()


def test_a_ring_before_the_wait_is_not_lost() -> None:
    bell = Doorbell()
    bell.ring()
    assert not bell.wait(60)


def test_the_installed_engine_has_what_the_dispatcher_takes_the_place_of() -> None:
    require_hooks()


def other(_stop: object) -> None:
    """Stand for a function of another version."""


@pytest.mark.parametrize("function", [None, other])
def test_an_engine_of_another_version_is_refused_at_the_start(
    url: str, monkeypatch: pytest.MonkeyPatch, function: Callable[..., None] | None
) -> None:
    monkeypatch.setattr(dbos._dbos, "queue_thread", function)
    runner = Runner(url, Steps(), name="one")
    with pytest.raises(EnvironmentFault) as caught:
        runner.start(["line"])
    assert caught.value.problem.code == "engine-version"
    runner.stop(grace_s=0)


def test_a_thread_of_a_route_that_has_ended_is_started_again(idle: tuple[Engine, Runner, Steps]) -> None:
    engine, runner, steps = idle
    engine.notify(runner.wake)
    (ended,) = [thread for thread in threading.enumerate() if thread.name == "route-route-7"]
    runner._dispatcher._bells["route-7"].set()
    ended.join(timeout=5)
    engine.submit("one", route="route-7", place=1)
    wait_until(lambda: "one" in steps.begun)
