# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of one request: the least urgent fixes stay out of a series that would exceed them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from elivepatch.advisory.exposure.affected import assess
from elivepatch.advisory.exposure.exposure import NOT_ASKED, Exposure
from elivepatch.advisory.exposure.priority import Ranking
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.fixes.fixes import Fix
from elivepatch.advisory.plan import Choice, ClosePlan, Decision, within_request
from elivepatch.advisory.policy import Policy
from elivepatch.advisory.records.record import Record
from elivepatch.model.kernel import Digest
from elivepatch.model.predicate import Predicate
from elivepatch.model.series import SERIES_LIMIT_BYTES, SourcePatch
from elivepatch.model.trial import EXPECTATIONS_LIMIT, Expectation

KERNEL = parse_kernel_version("6.1.100")
MIB = 1 << 20


def chosen(number: int, *, size: int = 100, score: int = 50, expectations: int = 0, seconds: int = 0) -> Decision:
    name = f"CVE-2030-{10000 + number}"
    assessment = assess(Record(id=name, title="", score=score), KERNEL)
    fix = Fix(
        cve=name,
        patches=(SourcePatch(f"{name}.patch", f"{number:09}".encode() + bytes(size - 9)),),
        origin="-",
        dated=datetime(2030, 1, 1, tzinfo=UTC),
        order=(number,),
        expectations=(
            *(Expectation(command=f"/proc/{number}/{one}", pattern="x") for one in range(expectations)),
            *(predicate(number, one) for one in range(seconds // 30)),
        ),
    )
    exposed = Exposure(assessment=assessment, built=NOT_ASKED, loaded=NOT_ASKED, closed=None)
    return Decision(exposed=exposed, choice=Choice.CHOSEN, reason="-", fix=fix)


def predicate(number: int, one: int) -> Expectation:
    """Return a predicate of 30 s."""
    return Expectation.of(Predicate(name=f"lamp{number}.sh", source=f"# elivepatch: seconds=30\nexit {one}\n"))


def left_out(decisions: list[Decision], live: dict[Digest, int] | None = None) -> dict[str, str]:
    plan = ClosePlan({one.cve: one for one in decisions})
    within_request(plan, Policy(), Ranking(exploited={}, probability={}), live or {})
    return {one.cve[-1]: one.reason for one in plan.having(Choice.LEFT_OUT)}


def test_the_least_urgent_fix_stays_out_of_a_series_of_more_than_24_mib() -> None:
    three = [chosen(1, size=10 * MIB, score=30), chosen(2, size=10 * MIB, score=90), chosen(3, size=10 * MIB)]
    assert left_out(three) == {"1": "with it, the series would exceed the 24 MiB of one request"}
    assert left_out(three[:2]) == {}


def test_live_patches_count_because_the_series_carries_them() -> None:
    live = {Digest("a" * 64): SERIES_LIMIT_BYTES - 150}
    assert list(left_out([chosen(1), chosen(2)], live)) == ["2"]


def test_a_patch_that_two_fixes_share_counts_once() -> None:
    one = chosen(1, size=20 * MIB)
    assert one.fix is not None
    live = {one.fix.patches[0].digest: 20 * MIB}
    assert left_out([one], live) == {}


def test_the_number_of_patches_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elivepatch.advisory.plan.PATCHES_LIMIT", 2)
    assert list(left_out([chosen(1), chosen(2), chosen(3)])) == ["3"]


def test_more_expectations_than_a_trial_can_have_wait_for_the_next_run() -> None:
    many = [chosen(1, expectations=EXPECTATIONS_LIMIT - 1), chosen(2, expectations=2), chosen(3, expectations=1)]
    assert left_out(many) == {"2": "with it, its trial would exceed the 64 expectations of one request"}


def test_predicates_that_take_longer_together_than_a_trial_can_wait_for_the_next_run() -> None:
    many = [chosen(1, seconds=90), chosen(2, seconds=60), chosen(3, seconds=30)]
    assert left_out(many) == {"2": "with it, its trial would exceed the 120 s of predicates of one request"}
