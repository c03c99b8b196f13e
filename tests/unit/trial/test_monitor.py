# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that makes progress is slow, one that makes none hangs; limits grow with the machine and the livepatch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from elivepatch.model.progress import silent
from elivepatch.trial.monitor import GuestMonitor

SCOPE = "000000"


@dataclass
class Watched:
    """A guest whose two files the test writes."""

    monitor: GuestMonitor

    def record(self, key: str, at: float, scope: str = SCOPE) -> None:
        with self.monitor.results.open("a") as file:
            file.write(f"{scope} {key} \n")
        self.monitor.tick(at)

    def alive(self, uptime: float, busy: int, at: float) -> None:
        with self.monitor.console.open("a") as file:
            file.write(f"<14>[    3.0] elivepatch: alive {uptime:.2f} {busy}\n")
        self.monitor.tick(at)

    def stopped(self, at: float) -> bool:
        self.monitor.tick(at)
        return self.monitor.stop.event.is_set()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    for name in ("results", "console"):
        (tmp_path / name).touch()
    return Watched(
        GuestMonitor(
            results=tmp_path / "results",
            console=tmp_path / "console",
            timeout_s=120,
            cancellation=None,
            progress=silent,
            total=1,
            symbols={SCOPE: 0},
        )
    )


def begun(watched: Watched, *, boot_s: float = 5) -> None:
    watched.record("ready", boot_s, scope="-")
    watched.record("begin", boot_s)


def test_a_guest_that_shows_nothing_is_stopped_at_its_limit(watched: Watched) -> None:
    begun(watched)
    assert not watched.stopped(119)
    assert watched.stopped(121)
    assert not watched.monitor.starved(SCOPE)


def test_a_guest_that_still_reports_is_not_stopped_at_its_limit_but_at_four_times_that(watched: Watched) -> None:
    begun(watched)
    for number, at in enumerate(range(20, 480, 20)):
        watched.record(f"before.{number:03}", at)
    assert not watched.stopped(479)
    assert watched.stopped(481)
    assert watched.monitor.makes_progress(481)


def test_a_kernel_that_looks_for_the_symbols_of_a_livepatch_makes_progress(watched: Watched) -> None:
    begun(watched)
    watched.record("log.before", 10)
    watched.record("started.1", 10)
    for at in range(12, 140, 2):
        watched.alive(at, busy=at * 100, at=at)
    assert not watched.stopped(139)


@pytest.mark.parametrize(("last", "busy"), [("started.1", 3), ("load.1", 100), ("settled.1", 100)])
def test_neither_a_sleep_while_loading_nor_a_loop_elsewhere_is_progress(watched: Watched, last: str, busy: int) -> None:
    begun(watched)
    watched.record(last, 10)
    for at in range(12, 122, 2):
        watched.alive(at, busy=at * busy, at=at)
    assert watched.stopped(121)


def test_the_limit_grows_with_the_boot_and_with_the_symbols(watched: Watched) -> None:
    begun(watched, boot_s=5)
    assert watched.monitor.limit_s(SCOPE) == 120
    watched.monitor.symbols = {SCOPE: 100}
    assert watched.monitor.limit_s(SCOPE) == 170
    watched.monitor.boot_s = 50
    assert watched.monitor.limit_s(SCOPE) == 5 * 170
    assert watched.monitor.starved(SCOPE)


def test_signs_of_life_that_come_late_show_a_machine_that_was_not_there(watched: Watched) -> None:
    begun(watched)
    watched.alive(6, busy=100, at=6)
    watched.alive(8, busy=110, at=8)
    assert not watched.monitor.starved(SCOPE)
    watched.alive(10, busy=120, at=30)
    assert watched.monitor.starved(SCOPE)
    assert not watched.monitor.starved("000001"), "another case had its own time"


def test_a_kernel_that_boots_slowly_but_prints_is_waited_for(watched: Watched) -> None:
    for at in range(0, 200, 10):
        with watched.monitor.console.open("a") as file:
            file.write("[    0.1] still booting\n")
        watched.monitor.tick(at)
    assert not watched.stopped(200)
    assert watched.stopped(235)
