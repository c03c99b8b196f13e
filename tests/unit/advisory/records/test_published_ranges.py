# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading the ranges that a record publishes for scanners, and finding where its commits say something else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.exposure.affected import State, assess
from elivepatch.advisory.exposure.contradiction import commit_doubt, contradictions
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.published_ranges import FIRST_COMMIT, PublishedRanges, parse_ranges
from elivepatch.advisory.records.record import Record

INTRO, FIX, MAINLINE = "a" * 40, "b" * 40, "c" * 40


def affected(version: str, end: str, **more: str) -> dict[str, str]:
    return {"version": version, "lessThan": end, "status": "affected", "versionType": "semver", **more}


def unaffected(version: str, last: str) -> dict[str, str]:
    return {"version": version, "lessThanOrEqual": last, "status": "unaffected", "versionType": "semver"}


def read(*blocks: tuple[str, list[Any]]) -> PublishedRanges:
    return parse_ranges([{"defaultStatus": default, "versions": entries} for default, entries in blocks])


def as_list(*blocks: tuple[str, list[Any]]) -> dict[str, bool]:
    """Return what the ranges say about some versions."""
    found = read(*blocks)
    assert not found.defect
    asked = ("2.6.39.4", "5.4", "5.10.29", "5.10.30", "5.10.54", "5.10.55", "5.11", "5.19.17", "6.0", "6.13", "7.0")
    return {text: found.affected(parse_kernel_version(text)) for text in asked}


def record(*lines: str) -> Record:
    ranges = parse_dyad("\n".join(lines))
    assert not isinstance(ranges, str)
    return Record(id="CVE-2031-1001", title="", introductions=ranges)


def test_a_range_ends_before_its_end_and_a_last_version_is_in_it() -> None:
    told = as_list(("unaffected", [affected("5.10.30", "5.10.55"), affected("5.19.2", "5.20")]))
    assert [text for text, state in told.items() if state] == ["5.10.30", "5.10.54", "5.19.17"]
    told = as_list(("affected", [unaffected("0", "5.3"), unaffected("5.10.55", "5.10.*"), unaffected("6.13", "*")]))
    assert [text for text, state in told.items() if state] == [
        "5.4",
        "5.10.29",
        "5.10.30",
        "5.10.54",
        "5.11",
        "5.19.17",
        "6.0",
    ]


def test_any_block_that_says_affected_counts() -> None:
    told = as_list(("unaffected", [affected("5.10.30", "5.10.55")]), ("unaffected", [unaffected("5.10.30", "5.10.*")]))
    assert [text for text, state in told.items() if state] == ["5.10.30", "5.10.54"]


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "5.4",
        {},
        {"version": "5.4"},
        affected("5.4", "x"),
        affected("lamp", "5.10"),
        affected("6.99", "7.0"),
        {**unaffected("5.4", "5.x.*")},
        {**unaffected("5.4", "5.10"), "lessThanOrEqual": 7},
        {"version": "5.4", "lessThan": "6.1", "status": "perhaps"},
    ],
)
def test_an_entry_that_cannot_be_read_is_a_defect_of_all(entry: Any) -> None:
    found = read(("unaffected", [affected("5.4", "5.10"), entry]))
    assert found.defect
    assert not found.blocks


_TEXT = st.sampled_from(["0", "*", "5.4", "5.10.*", "5.20", "6.1.7", "2.6.39", "7.0-rc3", "x", "", "9" * 50])
_ENTRY = st.dictionaries(
    st.sampled_from(["version", "lessThan", "lessThanOrEqual", "status", "versionType"]),
    _TEXT | st.sampled_from(["affected", "unaffected", "git", INTRO]) | st.none() | st.integers(),
)


@given(st.lists(st.none() | st.fixed_dictionaries({}, optional={"versions": st.none() | st.lists(_ENTRY | st.text())})))
def test_any_published_ranges_are_read_or_refused_with_a_sentence(parts: list[Any]) -> None:
    found = parse_ranges(parts)
    found.affected(parse_kernel_version("6.1.7"))
    assert found.defect or all(one.first for block in found.blocks for one in block.ranges)
    contradictions(record(f"5.4:{INTRO}:6.1.7:{FIX}"), found)


def test_too_many_entries_are_not_read() -> None:
    assert "4000" in read(("unaffected", [affected("5.4", "5.10")] * 4001)).defect


def test_versions_of_which_the_commits_alone_say_affected_are_found_with_their_end() -> None:
    made = record(f"5.4:{INTRO}:6.1.20:{FIX}", f"5.4:{INTRO}:6.1.30:{'d' * 40}", f"5.4:{INTRO}:6.4:{MAINLINE}")
    published = read(
        ("affected", [unaffected("0", "5.3.*"), unaffected("6.1.20", "6.1.*"), unaffected("6.4", "*")]),
    )
    (found,) = contradictions(made, published)
    assert (str(found.first), str(found.end), found.affected, found.alone) == ("6.1.20", "6.1.30", False, False)
    assert found.sentence == (
        "From 6.1.20 on and before 6.1.30, its commits say affected and its version ranges do not."
    )


@pytest.mark.parametrize(("cleared", "state"), [(False, State.AFFECTED), (True, State.FIXED)])
def test_version_ranges_that_call_a_fixed_version_affected_count_unless_another_one_calls_it_fixed(
    cleared: bool, state: State
) -> None:
    made = record(f"5.4:{INTRO}:6.1.20:{FIX}", f"5.4:{INTRO}:6.4:{MAINLINE}")
    ranges = [("unaffected", [affected("5.4", "6.1.25"), affected("6.2", "6.4")])]
    if cleared:
        ranges.append(("unaffected", [unaffected("6.1.20", "6.1.*")]))
    (found,) = contradictions(made, read(*ranges))
    assert (str(found.first), str(found.end), found.affected, found.alone) == ("6.1.20", "6.1.25", True, not cleared)
    told = Record(id=made.id, title="", introductions=made.introductions, contradictions=(found,))
    answer = assess(told, parse_kernel_version("6.1.22"))
    assert answer.state is state
    assert "the record contradicts itself" in answer.evidence[0].reason
    assert assess(told, parse_kernel_version("6.1.25")).state is State.FIXED
    assert "contradicts" not in assess(told, parse_kernel_version("6.1.25")).evidence[0].reason


def test_a_candidate_is_answered_as_its_release_in_a_contradiction() -> None:
    made = record(f"5.4:{INTRO}:6.1:{FIX}")
    (found,) = contradictions(made, read(("unaffected", [affected("5.4", "6.4")])))
    told = Record(id=made.id, title="", introductions=made.introductions, contradictions=(found,))
    assert [str(assess(told, parse_kernel_version(text)).state) for text in ("6.3-rc1", "6.4-rc1", "6.4")] == [
        "affected", "fixed", "fixed",
    ]  # fmt: skip


def test_commits_that_only_the_json_names_leave_no_version_surely_fixed() -> None:
    made = record(f"0:0:6.1.20:{FIX}", f"5.8:{INTRO}:0:0")
    git = [{"version": FIRST_COMMIT, "lessThan": FIX}, {"version": INTRO}]
    entries = [{**one, "status": "affected", "versionType": "git"} for one in git]
    assert commit_doubt(made, read(("unaffected", entries))) == ""
    assert commit_doubt(made, read(("unaffected", entries[:1]))) == "", "the ranges have more"
    more = [*entries, {"version": INTRO, "lessThan": MAINLINE, "status": "affected", "versionType": "git"}]
    doubt = commit_doubt(made, read(("unaffected", more)))
    assert doubt == "Its JSON names cccccccccccc, which its ranges lack."
    told = Record(id=made.id, title="", introductions=made.introductions[:1], doubt=doubt)
    answer = assess(told, parse_kernel_version("6.1.30"))
    assert answer.state is State.UNKNOWN
    assert doubt in answer.evidence[0].reason
    assert assess(told, parse_kernel_version("6.1.3")).state is State.AFFECTED


def test_a_record_without_version_ranges_contradicts_nothing() -> None:
    assert contradictions(record(f"5.4:{INTRO}:6.1.20:{FIX}"), PublishedRanges()) == ()
