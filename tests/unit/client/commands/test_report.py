# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for people: what a trial showed, and what it did not."""

from __future__ import annotations

from typing import Any

import pytest
from job_server import BUILD, JOB, SUCCESS, Run, Server

PARTLY = {
    "passed": False, "accelerator": "tcg", "outcome": "partly",
    "not_live": [{"object": "kvm_intel", "why": "the guest lacks the hardware that it needs (ENODEV)"}],
    "module_reloads": [{"module": "8021q", "result": "refused", "words": "invalid module format"}],
}  # fmt: skip


def test_a_trial_that_passed_partly_is_never_called_passed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Server(SUCCESS | {"trial": PARTLY}), *BUILD) == 0
    out = capsys.readouterr().out
    assert "trial passed" not in out
    assert "trial partly: loaded, reverted and loaded again on tcg, but the code in kvm_intel was not tried" in out
    assert "kvm_intel was not live in the guest: the guest lacks the hardware" in out
    assert "this kernel refused to load 8021q again" in out


SEEN = {"before": "open", "during": "closed", "after": "open", "again": "closed"}
UNTRIED = dict.fromkeys(SEEN, "not tried")


def test_what_predicates_saw_is_shown_phase_by_phase(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    observations = [
        {"command": "lamp.expect.c", "seen": SEEN, "tried": True},
        {"command": "/proc/lamp", "seen": {}, "tried": True},
        {"command": "oil.expect.sh", "seen": UNTRIED, "tried": False},
    ]
    partly = {"passed": False, "accelerator": "tcg", "outcome": "partly", "observations": observations}
    assert run(Server(SUCCESS | {"trial": partly}), *BUILD) == 0
    out = capsys.readouterr().out
    assert "trial partly: loaded, reverted and loaded again on tcg, but oil.expect.sh was not tried" in out
    assert "predicate lamp.expect.c: open before, closed during, open after" in out
    assert "predicate oil.expect.sh: not tried before, not tried during, not tried after" in out
    assert "predicate /proc/lamp" not in out


OUTSIDE: dict[str, Any] = {
    "seen": True, "why_not": "", "phases": ["before", "during", "after", "again", "end"], "compared_bytes": 23 << 20,
    "functions": [
        {"object": "vmlinux", "name": "f", "redirected": True, "leads_to_new": True, "restored": True},
        {"object": "vmlinux", "name": "g", "redirected": True, "leads_to_new": None, "restored": None},
    ],
    "self_patched": {"ftrace": 2, "jump-label": 1},
}  # fmt: skip


def test_what_was_seen_from_outside_is_told_apart_from_the_guests_word(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Server(SUCCESS | {"trial": PARTLY | {"outside": OUTSIDE}}), *BUILD) == 0
    assert (
        "seen from outside the guest: 1 of 2 replaced functions led to the new one, 1 led to the livepatch core, "
        "1 had their entry back after the revert, the other 23 MiB of code and constants stayed the same but for "
        "places that are patched in any kernel (2 ftrace, 1 jump-label)" in capsys.readouterr().out
    )
    unseen = OUTSIDE | {"seen": False, "why_not": "QEMU's monitor does not answer within 5 s"}
    assert run(Server(SUCCESS | {"trial": PARTLY | {"outside": unseen}}), *BUILD) == 0
    assert "not seen from outside the guest: QEMU's monitor does not answer within 5 s" in capsys.readouterr().out


WORKED = {
    "passed": True, "accelerator": "tcg", "outcome": "passed", "not_live": [], "module_reloads": [],
    "functions": [
        {"object": "vmlinux", "function": "f", "calls": 12},
        {"object": "vmlinux", "function": "g", "calls": 0},
        {"object": "xfs", "function": "h", "calls": None},
    ],
    "replaced": 3, "executed": 1,
    "workload": [
        {"name": "proc", "before": "ran", "during": "ran", "after": "stopped", "words": ""},
        {"name": "xfs", "before": "not-run", "during": "not-run", "after": "not-run",
         "words": "this server has no mkfs.xfs"},
    ],
    "workload_seconds": 7.31, "workload_left_out": "",
}  # fmt: skip


def test_a_report_names_what_ran_what_never_ran_and_what_was_not_counted(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Server(SUCCESS | {"trial": WORKED}), *BUILD) == 0
    out = capsys.readouterr().out
    assert "the guest counted calls of 1 of the 3 replaced functions" in out
    assert "never ran in the trial: vmlinux:g\n" in out
    assert "not counted in the trial: xfs:h\n" in out
    assert "workload: proc (7 s)" in out
    assert "workload xfs was left out: this server has no mkfs.xfs" in out


def test_what_a_livepatch_met_in_its_trial_is_printed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [
        {"module": "8021q", "change": "loaded-late", "result": "seen", "words": ""},
        {"module": "8021q", "change": "unloaded", "result": "seen", "words": ""},
        {"module": "8021q", "change": "reloaded", "result": "refused", "words": "invalid module format"},
        {"module": "sctp", "change": "loaded-late", "result": "not-tried", "words": "it is in use"},
    ]
    over = {"name": "livepatch_before", "result": "replaced", "words": ""}
    replay = f"elivepatch-server trial replay {JOB}"
    trial = PARTLY | {"module_changes": changes, "over_earlier": over, "replay": replay}
    assert run(Server(SUCCESS | {"trial": trial}), *BUILD) == 0
    out = capsys.readouterr().out
    assert "8021q was loaded late, unloaded while it was live" in out
    assert "this kernel refused to load 8021q again while it was live: invalid module format" in out
    assert "sctp was not loaded late while it was live: it is in use" in out
    assert "it replaced livepatch_before, which was live before it" in out
    assert f"to run the trial again on the server: {replay}" in out
    none = {"name": "", "result": "not-tried", "words": "the server has not built one"}
    assert run(Server(SUCCESS | {"trial": trial | {"over_earlier": none}}), *BUILD) == 0
    assert "not tried over an earlier livepatch: the server has not built one" in capsys.readouterr().out


PASSED = {"passed": True, "accelerator": "tcg", "outcome": "passed"}
CALLED = {"object": "vmlinux", "function": "meminfo_proc_show"}
DEBUG: dict[str, Any] = {
    "kernel": "6.1.176-debug-0123456789ab", "outcome": "passed", "why_not": "", "missing": [], "seconds": 41.0,
    "problem": None, "functions": [CALLED | {"calls": 4}, CALLED | {"function": "seq_put", "calls": 0}],
}  # fmt: skip
THERE = "on the debugging kernel 6.1.176-debug-0123456789ab (KASAN, lockdep)"


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, [f"{THERE}: no new report; 1 of 2 replaced functions ran"]),
        (
            {"outcome": "inconclusive", "why_not": "that kernel reported trouble of its own", "missing": ["nfsd:f"]},
            [f"{THERE}: inconclusive, that kernel reported trouble of its own", "not replaced there: nfsd:f"],
        ),
        (
            {"outcome": None, "why_not": "that kernel is small and builds none of the files of the series"},
            ["not tried on a debugging kernel: that kernel is small and builds none of the files of the series"],
        ),
    ],
    ids=["passed", "inconclusive", "not tried"],
)
def test_a_trial_on_the_debugging_kernel_is_told_apart(
    run: Run, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], lines: list[str]
) -> None:
    assert run(Server(SUCCESS | {"trial": PASSED | {"debug": DEBUG | changed}}), *BUILD) == 0
    out = capsys.readouterr().out
    for line in ["trial passed", *lines]:
        assert line in out
    assert ("no new report" in out) is (not changed)
