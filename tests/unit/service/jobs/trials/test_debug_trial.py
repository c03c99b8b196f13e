# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer of a trial on a debugging kernel: `passed` only if that kernel could report, and reported nothing."""

from __future__ import annotations

from typing import Any

import pytest

from elivepatch.model.build import PatchedFunction
from elivepatch.model.errors import Kind, Problem
from elivepatch.model.trial import CalledFunction, NotLive, TrialOutcome, TrialReport
from elivepatch.service.jobs.trials.debug_trial import judged, no_debug_kernel

KERNEL = "6.1.176-debug-0123456789ab"
SHOW = PatchedFunction(object="vmlinux", name="meminfo_proc_show", sympos=0, source="fs/proc/meminfo.c")
HELPER = PatchedFunction(object="nfsd", name="helper", sympos=0, source="fs/nfsd/vfs.c")


def report(**changed: Any) -> TrialReport:
    facts: dict[str, Any] = {
        "release": KERNEL, "build_id": "ab" * 20, "accelerator": "tcg", "observations": (), "transition_s": 0.5,
        "reverted": True, "reloaded": True, "clean_log": True, "seconds": 30.0, "problems": (),
        "functions": (CalledFunction(object="vmlinux", function="meminfo_proc_show", calls=4),),
    }  # fmt: skip
    return TrialReport(**(facts | changed))


def trouble(kind: Kind) -> tuple[Problem, ...]:
    return (Problem(code="trial-kernel-log", kind=kind, message="BUG: KASAN: use-after-free.", advice="Read it."),)


def test_a_trial_without_a_new_report_has_passed() -> None:
    found = judged(KERNEL, [SHOW], [SHOW], report())
    assert (found.outcome, found.why_not, found.problem, found.missing) == (TrialOutcome.PASSED, "", None, ())
    assert (found.kernel, found.seconds, found.functions[0].calls) == (KERNEL, 30.0, 4)


def test_a_new_report_is_a_fault_of_the_patch_and_names_the_kernel() -> None:
    found = judged(KERNEL, [SHOW], [SHOW], report(problems=trouble(Kind.FAILURE)))
    assert found.outcome is TrialOutcome.FAILED
    assert found.problem is not None
    assert (found.problem.code, found.problem.kind) == ("trial-debug", Kind.FAILURE)
    assert KERNEL in found.problem.message
    assert "KASAN: use-after-free" in found.problem.message


def test_a_function_that_is_not_replaced_there_is_named() -> None:
    assert judged(KERNEL, [SHOW, HELPER], [SHOW], report()).missing == ("nfsd:helper",)


def test_a_function_of_a_module_that_is_built_in_there_is_the_same_function() -> None:
    built_in = PatchedFunction(object="vmlinux", name="helper", sympos=0, source="fs/nfsd/vfs.c")
    assert judged(KERNEL, [HELPER], [built_in], report()).missing == ()


@pytest.mark.parametrize(
    ("changed", "outcome", "why"),
    [
        ({"trouble_before": "WARNING: possible recursive locking"}, TrialOutcome.INCONCLUSIVE, "recursive locking"),
        ({"problems": trouble(Kind.ERROR)}, TrialOutcome.INCONCLUSIVE, "use-after-free"),
        ({"not_live": (NotLive(object="nfsd", why="it needs firmware"),)}, TrialOutcome.PARTLY, "needs firmware"),
    ],
    ids=["its own trouble", "a slow machine", "a module that was not live"],
)
def test_a_kernel_that_could_not_report_has_not_passed(
    changed: dict[str, Any], outcome: TrialOutcome, why: str
) -> None:
    found = judged(KERNEL, [SHOW], [SHOW], report(**changed))
    assert (found.outcome, found.problem) == (outcome, None)
    assert why in found.why_not


def test_without_a_debugging_kernel_the_command_that_makes_it_is_named() -> None:
    found = no_debug_kernel("6.1.0-50-cloud-amd64")
    assert found.outcome is None
    assert "elivepatch-server kernel add 6.1.0-50-cloud-amd64 --debugging" in found.why_not
