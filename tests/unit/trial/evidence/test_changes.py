# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that come and go while the livepatch is live, reported by the guest's records."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trial_records import CASE, PASSED, SCOPE, codes, verdict

from elivepatch.model.trial import ModuleChange
from elivepatch.trial.evidence.changes import busy_rounds_of
from elivepatch.trial.guest_protocol import Records

LATE = PASSED | {
    "taken.dummy": b"0\n",
    "log.second": b"",
    "late.dummy": b"0\n",
    "objects.late": b"0\ndummy 1 1\nvmlinux 1 1\n",
    "log.late": b"",
}
REFUSED = b"<4>[    3.1] livepatch: patch 'x' failed for module 'dummy', refusing to load module 'dummy'\n"


def change(name: str, result: str = "seen", words: str = "") -> ModuleChange:
    return ModuleChange(module="dummy", change=name, result=result, words=words)


def test_a_module_that_came_late_went_and_came_back_is_reported_three_times() -> None:
    found = verdict(LATE)
    assert found.problems == ()
    assert found.module_changes == (change("loaded-late"), change("unloaded"), change("reloaded"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"late.dummy": b"1\ninsmod: can't insert 'x.ko': Invalid argument", "log.late": REFUSED}, "Invalid argument"),
        ({"objects.late": b"0\ndummy 0 1\nvmlinux 1 1\n"}, "did not patch it"),
    ],
)
def test_a_module_that_the_livepatch_keeps_from_coming_late_is_a_fault(changed: dict[str, bytes], words: str) -> None:
    found = verdict(LATE | changed)
    assert codes(found) == ["trial-late"]
    assert words in found.problems[0].message
    assert found.module_changes[0].result == "failed"


def test_a_module_that_does_not_come_back_by_itself_is_no_fault_and_its_output_is_not_compared() -> None:
    gone = {"late.dummy": b"1\ninsmod: can't insert 'x.ko': No such device", "again.000": b"1\nno such file\n"}
    found = verdict({key: one for key, one in (LATE | gone).items() if not key.startswith(("removed", "added"))})
    assert found.problems == ()
    assert found.module_changes[0] == change("loaded-late", "not-tried", "No such device")


def test_a_module_in_use_is_not_tried_late() -> None:
    found = verdict(PASSED | {"taken.dummy": b"1\nrmmod: can't unload module 'dummy': Resource busy"})
    assert found.problems == ()
    assert found.module_changes[0] == change("loaded-late", "not-tried", "Resource busy")


def test_a_livepatch_that_needs_the_modules_symbols_is_loaded_after_it() -> None:
    found = verdict(PASSED, case=replace(CASE, needs=frozenset({"dummy"})))
    assert found.problems == ()
    assert "must come first" in found.module_changes[0].words


@pytest.mark.parametrize("lost", ["late.dummy", "objects.late", "log.late", "log.second"])
def test_a_record_that_is_missing_is_no_success(lost: str) -> None:
    assert codes(verdict({key: value for key, value in LATE.items() if key != lost})) == ["trial-lost"]


@pytest.mark.parametrize("log", ["second", "late"])
def test_trouble_with_a_module_that_comes_late_is_found(log: str) -> None:
    found = verdict(LATE | {f"log.{log}": b"<4>[    3.1] WARNING: CPU: 0 PID: 1 at x.c\n"})
    assert codes(found) == ["trial-kernel-log"]


@pytest.mark.parametrize(
    ("load", "revert", "expected"),
    [(b"0\n48\n56", b"0\n8\n0", (56, 56)), (b"0\n48", b"0\n8\n8", (56,)), (b"", b"", ()), (b"x", b"0\nx\n-1", ())],
)
def test_the_calls_of_the_busy_tasks_are_counted_for_each_processor(
    load: bytes, revert: bytes, expected: tuple[int, ...]
) -> None:
    records = Records({(SCOPE, "busy.load"): load, (SCOPE, "busy.revert"): revert}, 0)
    assert busy_rounds_of(SCOPE, records) == expected
