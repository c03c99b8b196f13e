# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts on fixes: how they are remembered, and how long they count."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from elivepatch.advisory.exposure.verdicts import FixOutcome, FixVerdict, FixVerdicts, lasting, remembered
from elivepatch.model.codes import problem
from elivepatch.model.errors import Kind, Problem, UsageError
from elivepatch.model.kernel import Digest, Release

PATCH, OTHER = Digest("1" * 64), Digest("2" * 64)
BUILDER = Digest("b" * 64)
VERDICT = FixVerdict(
    patches=(PATCH,),
    builder=BUILDER,
    asked=True,
    problem=problem("data-layout", "A structure grows."),
    functions=("vmlinux:f", "mod_a:g.isra.0"),
    after=(OTHER,),
    beside=(OTHER,),
    at="2030-05-02T12:00:00+00:00",
)


def test_verdicts_come_back_as_they_were_kept() -> None:
    kept = FixVerdicts(release=Release("6.1.0-50-cloud-amd64"), by_cve={"CVE-2030-10001": VERDICT})
    assert FixVerdicts.from_dict(json.loads(json.dumps(kept.as_dict()))) == kept


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"release": "../x"},
        {"verdicts": {"CVE-1": {}}},
        {"verdicts": []},
        {"verdicts": {"CVE-2030-10001": {"patches": ["x"]}}},
    ],
)
def test_damaged_verdicts_are_refused(change: dict[str, Any]) -> None:
    whole = FixVerdicts(release=Release("6.1.0"), by_cve={}).as_dict()
    with pytest.raises(UsageError):
        FixVerdicts.from_dict(whole | change)
    damaged: list[Any] = [None, [], "x"]
    for content in damaged:
        with pytest.raises(UsageError):
            FixVerdicts.from_dict(content)


def test_a_verdict_holds_for_exactly_these_patches_and_this_builder() -> None:
    assert VERDICT.holds([PATCH], BUILDER)
    assert not VERDICT.holds([PATCH, OTHER], BUILDER)
    assert not VERDICT.holds([PATCH], Digest("c" * 64))
    assert not FixVerdict(patches=(PATCH,), builder=BUILDER).holds([PATCH], BUILDER)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("data-layout", FixOutcome.NEEDS_REBOOT),
        ("compile-error", FixOutcome.NEEDS_REBOOT),
        ("already-applied", FixOutcome.NOTHING_TO_DO),
        ("no-change", FixOutcome.NOTHING_TO_DO),
        ("not-built", FixOutcome.NOTHING_TO_DO),
        ("patch-repeated", FixOutcome.NEEDS_REBOOT),
    ],
)
def test_what_follows_from_a_problem(code: str, outcome: FixOutcome) -> None:
    assert FixVerdict(patches=(PATCH,), builder=BUILDER, asked=True, problem=problem(code, "-")).outcome is outcome


def test_a_fix_whose_change_others_of_its_series_make_is_covered_by_them() -> None:
    found = FixVerdict(patches=(PATCH,), builder=BUILDER, asked=True, problem=problem("patch-repeated", "-"))
    beside = replace(found, beside=(OTHER, PATCH))
    assert beside.outcome is FixOutcome.COVERED
    assert beside.closed_by == {OTHER, PATCH}
    assert replace(beside, patches=(PATCH, OTHER)).outcome is FixOutcome.NEEDS_REBOOT, "the other patch may be missing"


def test_a_fix_without_a_question_is_untried_and_one_without_a_problem_convertible() -> None:
    assert FixVerdict(patches=(PATCH,), builder=BUILDER).outcome is FixOutcome.UNTRIED
    assert FixVerdict(patches=(PATCH,), builder=BUILDER, asked=True).outcome is FixOutcome.CONVERTIBLE


def test_only_what_is_about_the_patch_lasts() -> None:
    assert lasting(problem("data-layout", "-"))
    assert lasting(problem("compile-error", "-"))
    assert not lasting(problem("diff-tool-crash", "-"))


def test_what_is_remembered_fits_on_a_line_and_acts_on_no_terminal() -> None:
    loud = Problem(code="x\x1b[2J", kind=Kind.VERDICT, message="a\nb\x1b]0;c" * 500, advice="d", excerpt="e" * 5000)
    kept = remembered(loud)
    assert kept.message.isprintable()
    assert len(kept.message) <= 400
    assert kept.excerpt == ""


SEVERAL = FixVerdict(
    patches=(PATCH, OTHER),
    builder=BUILDER,
    asked=True,
    problem=problem("already-applied", "a.patch is already in this kernel's source."),
)


def test_a_source_that_has_one_of_several_patches_is_not_fixed_by_it() -> None:
    assert SEVERAL.outcome is FixOutcome.NEEDS_REBOOT
    assert replace(SEVERAL, beside=(PATCH,)).outcome is FixOutcome.NEEDS_REBOOT, "nor is it covered by other fixes"
    assert replace(SEVERAL, applied=(PATCH,)).outcome is FixOutcome.NOTHING_TO_DO, "the other one was asked about alone"


def test_the_patches_that_the_source_lacks_close_the_cve() -> None:
    assert replace(SEVERAL, problem=None, applied=(PATCH,)).closed_by == {OTHER}
    assert replace(SEVERAL, problem=None).closed_by == {PATCH, OTHER}


def test_patches_are_the_whole_fix_of_the_commits_that_they_were_looked_up_for() -> None:
    first, second = "a" * 40, "b" * 40
    noted = replace(SEVERAL, commits=(first,))
    assert noted.closes([first])
    assert not noted.closes([first, second])
    assert SEVERAL.closes([first]), "an earlier version noted no commits"
    assert not SEVERAL.closes([first, second])


def test_a_file_of_an_earlier_version_has_neither_commits_nor_applied_patches() -> None:
    kept = FixVerdicts(release=Release("6.1.0-50-cloud-amd64"), by_cve={"CVE-2030-10001": VERDICT}).as_dict()
    for name in ("commits", "applied"):
        del kept["verdicts"]["CVE-2030-10001"][name]
    assert FixVerdicts.from_dict(json.loads(json.dumps(kept))).by_cve["CVE-2030-10001"] == VERDICT
