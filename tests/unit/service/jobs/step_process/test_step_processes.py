# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps of jobs in real processes: a step that crashes, spins or grows costs its own job only."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deadline import wait_until
from fake_backend import FUNCTION, KERNEL, SOURCES, FakeBackend

from elivepatch.model.build import BuildOutcome, BuildRequest
from elivepatch.model.errors import ElivepatchError, EnvironmentFault
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event, silent
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import DebugTrial, Expectation, TrialOutcome
from elivepatch.process import Cancellation
from elivepatch.service.jobs.step_process.backend import ProcessBackend
from elivepatch.service.jobs.step_process.messages import Recipe
from elivepatch.service.jobs.step_process.pool import StepLimits

KEY = Digest("ab" * 32)


class House:
    """A backend in processes, and a directory for its work."""

    def __init__(self, top: Path, limits: StepLimits | None = None) -> None:
        self.top = top
        self.fake = FakeBackend(top / "runs.txt")
        self.backend = ProcessBackend(self.fake, limits)
        self.backend.sweep()

    def build(
        self,
        *words: str,
        progress: Callable[[Event], None] = silent,
        cancellation: Cancellation | None = None,
        key: Digest = KEY,
    ) -> BuildOutcome:
        work_dir = self.top / f"work-{time.monotonic_ns()}"
        work_dir.mkdir()
        return self.backend.build(
            BuildRequest(release=KERNEL.release, series=PatchSeries((SourcePatch("p", "\n".join(words).encode()),))),
            build_key=key,
            work_dir=work_dir,
            log=self.top / "log",
            progress=progress,
            cancellation=cancellation or Cancellation.new(),
            tenant="web",
        )

    def code(self, *words: str) -> str:
        with pytest.raises(ElivepatchError) as caught:
            self.build(*words)
        assert caught.value.problem.advice
        return caught.value.problem.code

    @property
    def pids(self) -> list[int]:
        return self.backend.pool.pids()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., House]]:
    running: list[House] = []

    def start_one(**limits: Any) -> House:
        house = House(tmp_path, StepLimits(**limits) if limits else None)
        running.append(house)
        return house

    yield start_one
    for house in running:
        house.backend.close()


@pytest.fixture
def house(start: Callable[..., House]) -> House:
    return start()


def test_a_build_and_a_trial_in_a_process_are_those_of_the_backend(house: House) -> None:
    events: list[Event] = []
    outcome = house.build("sleep 0.3", progress=events.append)
    assert outcome.livepatch is not None
    assert outcome.module is not None
    assert outcome.module.read_bytes().startswith(b"\x7fELF livepatch of")
    assert (house.top / "log").read_bytes().startswith(b"compiling")
    assert events[0].stage == "prepare"
    assert events[-1] == Event(stage="link", message="links the module", fraction=1.0)
    guest = house.top / "guest"
    guest.mkdir()
    report = house.backend.trial(
        outcome.livepatch,
        outcome.module,
        [Expectation(command="/proc/meminfo", pattern="never")],
        work_dir=guest,
        console=house.top / "console",
        progress=silent,
        cancellation=Cancellation.new(),
    )
    assert [problem.code for problem in report.problems] == ["trial-expectation"]
    assert (house.top / "console").exists()


def test_a_build_in_a_process_knows_its_tenant(house: House) -> None:
    house.build("sleep 0")
    assert house.fake.runs("for web") == 1


def test_a_trial_on_a_debugging_kernel_in_a_process_is_that_of_the_backend(house: House) -> None:
    guest = house.top / "guest"
    guest.mkdir()

    def tried(patch: str) -> DebugTrial:
        return house.backend.debug_trial(
            BuildRequest(release=KERNEL.release, series=PatchSeries((SourcePatch("fix.patch", patch.encode()),))),
            [FUNCTION],
            work_dir=guest,
            console=house.top / "console",
            progress=silent,
            cancellation=Cancellation.new(),
            tenant="web",
        )

    found = tried("sleep 0")
    assert (found.outcome, found.functions[0].calls, found.problem) == (TrialOutcome.PASSED, 3, None)
    assert (house.top / "console").exists()
    failed = tried("kasan-report")
    assert failed.outcome is TrialOutcome.FAILED
    assert failed.problem is not None
    assert failed.problem.code == "trial-debug"
    assert tried("no-debug-kernel").outcome is None


def test_progress_arrives_while_the_step_runs(house: House) -> None:
    seen = threading.Event()
    cancellation = Cancellation.new()

    def progress(event: Event) -> None:
        if event.stage == "compile":
            seen.set()
            cancellation.event.set()

    with pytest.raises(ElivepatchError):
        house.build("sleep 60", progress=progress, cancellation=cancellation)
    assert seen.is_set()


def test_steps_use_the_process_that_waits_for_them(house: House) -> None:
    wait_until(lambda: len(house.pids) == 1)
    before = house.pids
    assert before != [os.getpid()]
    house.build("sleep 0")
    house.build("sleep 0")
    assert house.pids == before


def test_a_verdict_and_an_expected_failure_are_handed_on(house: House) -> None:
    outcome = house.build("verdict")
    assert outcome.problem is not None
    assert outcome.problem.code == "data-changed"
    assert house.code("broken-environment") == "program-missing"
    assert house.code("disk-full") == "disk-full"


def test_an_unexpected_exception_keeps_its_words_to_the_log(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ElivepatchError) as caught:
        house.build("explode")
    assert caught.value.problem.code == "internal-error"
    assert "secret" not in f"{caught.value.problem}"
    out, err = capfd.readouterr()
    assert "a secret that must not leave the server" in out + err


@pytest.mark.parametrize(
    ("word", "how"), [("segfault", "SIGSEGV"), ("die-always", "SIGKILL"), ("exit", "exit status 7")]
)
def test_a_step_that_crashes_its_process_twice_costs_its_job_only(house: House, word: str, how: str) -> None:
    with pytest.raises(ElivepatchError) as caught:
        house.build(word)
    assert caught.value.problem.code == "step-crashed"
    assert how in caught.value.problem.message
    assert house.fake.runs("build") == 2
    assert house.build("sleep 0").livepatch is not None


def test_a_step_whose_process_is_killed_once_is_done_again_from_nothing(house: House) -> None:
    assert house.build("die-once").livepatch is not None
    assert house.fake.runs("build") == 2


def test_a_step_that_lets_no_other_thread_run_is_killed_when_it_is_cancelled(start: Callable[..., House]) -> None:
    house = start(grace_s=0.3)
    cancellation = Cancellation.new()
    house.build("sleep 0")
    threading.Timer(1.0, cancellation.event.set).start()
    started = time.monotonic()
    with pytest.raises(ElivepatchError) as caught:
        house.build("spin", cancellation=cancellation)
    assert caught.value.problem.code == "cancelled"
    assert time.monotonic() - started < 4
    assert house.fake.runs("build") == 2
    assert house.build("sleep 0").livepatch is not None


@pytest.mark.parametrize("words", [("sleep 60",), ("sleep 60", "deaf")])
def test_a_cancelled_step_ends_at_once_and_its_process_is_not_used_again(
    start: Callable[..., House], words: tuple[str, ...]
) -> None:
    house = start(grace_s=0.5)
    house.build("sleep 0")
    before = house.pids
    cancellation = Cancellation.new()
    threading.Timer(0.3, cancellation.event.set).start()
    started = time.monotonic()
    with pytest.raises(ElivepatchError):
        house.build(*words, cancellation=cancellation)
    assert time.monotonic() - started < 2
    house.build("sleep 0")
    assert set(house.pids).isdisjoint(before)


def test_a_step_that_takes_too_much_memory_is_killed(start: Callable[..., House]) -> None:
    house = start(memory_bytes=300 << 20)
    assert house.code("hog 400", "sleep 30") == "step-memory"
    assert house.fake.runs("build") == 1, "the next process would take as much"
    assert house.build("sleep 0").livepatch is not None


def test_a_process_that_has_grown_is_replaced_after_its_step(start: Callable[..., House]) -> None:
    house = start(keep_bytes=200 << 20)
    house.build("sleep 0")
    before = house.pids
    assert house.build("hog 200").livepatch is not None
    wait_until(lambda: len(house.pids) == 1 and house.pids != before)


def test_a_process_that_died_while_it_waited_is_replaced(house: House) -> None:
    house.build("sleep 0")
    (before,) = house.pids
    os.kill(before, signal.SIGKILL)
    assert house.build("sleep 0").livepatch is not None
    assert house.pids != [before]


def test_a_second_step_gets_a_process_of_its_own_which_ends_afterwards(house: House) -> None:
    cancellation = Cancellation.new()

    def build_until_cancelled() -> None:
        with pytest.raises(ElivepatchError):
            house.build("sleep 120", cancellation=cancellation)

    build = threading.Thread(target=build_until_cancelled)
    build.start()
    wait_until(lambda: house.fake.runs("build") == 1)
    assert house.backend.encoded_sources(KERNEL.release) == SOURCES.encode()
    assert build.is_alive()
    cancellation.event.set()
    build.join(timeout=20)
    assert not build.is_alive()
    wait_until(lambda: len(house.pids) == 1)


def test_small_questions_need_no_process(tmp_path: Path) -> None:
    fake = FakeBackend(tmp_path / "runs.txt")
    backend = ProcessBackend(fake)
    assert backend.kernels() == [KERNEL]
    assert backend.facts(KERNEL.release) == fake.facts(KERNEL.release)
    assert backend.base_patches(KERNEL.release) == fake.base_patches(KERNEL.release)
    with pytest.raises(EnvironmentFault, match=r"no base for 6\.2"):
        backend.encoded_sources("6.2")
    assert backend.pool.pids() == []
    backend.close()


def test_a_closed_backend_leaves_no_process(house: House) -> None:
    build = threading.Thread(target=lambda: house.code("sleep 60"))
    build.start()
    wait_until(lambda: house.fake.runs("build") == 1)
    pids = house.pids
    house.backend.close()
    build.join(timeout=10)
    assert not build.is_alive()
    assert pids
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_backend_that_cannot_be_made_in_a_process_fails_the_job_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "recipe", lambda _: Recipe(factory="no_such_module:Backend"))
    house = House(tmp_path)
    assert house.code("sleep 0") == "step-crashed"
    with pytest.raises(EnvironmentFault):  # so that the other kernels are offered all the same
        house.backend.encoded_sources(KERNEL.release)
    house.backend.close()


def test_a_process_gives_way_to_the_server_from_its_first_build_on(house: House) -> None:
    house.backend.encoded_sources(KERNEL.release)
    (pid,) = house.pids
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    house.build("sleep 0")
    assert house.pids == [pid]
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
