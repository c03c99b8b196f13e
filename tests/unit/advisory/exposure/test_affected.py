# SPDX-License-Identifier: GPL-2.0-or-later
"""The affected rule, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.exposure.affected import Assessment, State, assess
from elivepatch.advisory.exposure.version import BEGINNING, parse_kernel_version
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.record import FixCommit, Introduction, Record


def commit(letter: str) -> str:
    return letter * 40


def ask(kernel: str, *lines: str) -> Assessment:
    """Assessment for a record with these ranges; `5.4:a:5.10.150:b` stands for 40-digit commits."""
    expanded = []
    for line in lines:
        start, by, end, fix = line.split(":")
        expanded.append(":".join((start, by if by == "0" else commit(by), end, fix if fix == "0" else commit(fix))))
    read = parse_dyad("\n".join(["# a comment", *expanded, ""]))
    assert isinstance(read, tuple)
    return assess(Record(id="CVE-2030-10001", title="", introductions=read), parse_kernel_version(kernel))


FOUR_BRANCHES = ("5.4:a:5.10.150:b", "5.4:a:6.1.100:c", "5.4:a:6.12:d")


@pytest.mark.parametrize(
    ("kernel", "state"),
    [
        ("4.19.300", State.NOT_AFFECTED),
        ("5.4", State.AFFECTED),
        ("5.10.149", State.AFFECTED),
        ("5.10.150", State.FIXED),
        ("5.15.150", State.AFFECTED),  # this branch never got the fix
        ("6.1.99", State.AFFECTED),
        ("6.1.100", State.FIXED),
        ("6.11.200", State.AFFECTED),
        ("6.12", State.FIXED),
        ("7.0.5", State.FIXED),
    ],
)
def test_a_fix_counts_in_its_own_branch_and_after_mainline_has_it(kernel: str, state: State) -> None:
    assert ask(kernel, *FOUR_BRANCHES).state is state


@pytest.mark.parametrize(
    ("kernel", "state"),
    [
        ("5.10.29", State.NOT_AFFECTED),
        ("5.10.30", State.AFFECTED),
        ("5.10.33", State.FIXED),
        ("5.15.100", State.NOT_AFFECTED),
        ("5.15.101", State.AFFECTED),
        ("6.1.50", State.NOT_AFFECTED),
        ("6.3.2", State.AFFECTED),
        ("6.8", State.FIXED),
    ],
)
def test_a_bug_that_came_by_a_backport_is_only_in_that_branch(kernel: str, state: State) -> None:
    assert ask(kernel, "5.10.30:a:5.10.33:b", "5.15.101:c:0:0", "6.3:d:6.8:e").state is state


@pytest.mark.parametrize(
    ("kernel", "state"),
    [("4.14.5", State.AFFECTED), ("5.4.10", State.FIXED), ("5.10.200", State.AFFECTED), ("6.6.1", State.FIXED)],
)
def test_a_bug_that_was_fixed_can_come_back(kernel: str, state: State) -> None:
    assert ask(kernel, "4.9:a:5.3:b", "5.8:c:6.6:d").state is state


def test_a_fix_older_than_its_introduction_does_not_count() -> None:
    assert ask("5.10.200", "5.8:a:4.18:b", "5.8:a:6.6:c").state is State.AFFECTED


def test_a_bug_that_comes_and_goes_in_one_release_affects_no_release() -> None:
    assert ask("6.6", "6.6:a:6.6:b").state is State.FIXED
    assert ask("6.5.9", "6.6:a:6.6:b").state is State.NOT_AFFECTED


TWO_IN_ONE_BRANCH = (
    "5.10.26:a:5.10.43:b",
    "5.10.26:a:5.10.55:c",
    "5.12:d:5.12.10:e",
    "5.12:d:5.12.19:f",
    "5.12:d:5.13:1",
)


@pytest.mark.parametrize(
    ("kernel", "state"),
    [
        ("5.10.25", State.NOT_AFFECTED),
        ("5.10.26", State.AFFECTED),
        ("5.10.43", State.AFFECTED),
        ("5.10.54", State.AFFECTED),
        ("5.10.55", State.FIXED),
        ("5.12.10", State.AFFECTED),
        ("5.12.18", State.AFFECTED),
        ("5.12.19", State.FIXED),
        ("5.13", State.FIXED),
        ("6.1.7", State.FIXED),
    ],
)
def test_several_fixes_of_one_introduction_in_one_branch_close_it_with_the_last(kernel: str, state: State) -> None:
    assert ask(kernel, *TWO_IN_ONE_BRANCH).state is state


def test_the_evidence_names_each_of_several_fixes_that_the_kernel_lacks() -> None:
    found = ask("5.10.30", *TWO_IN_ONE_BRANCH)
    assert [(one.fixed, one.fixed_commit) for one in found.evidence] == [
        ("5.10.43", commit("b")),
        ("5.10.55", commit("c")),
    ]
    assert found.several
    found = ask("5.10.50", *TWO_IN_ONE_BRANCH)
    assert [one.fixed for one in found.evidence] == ["5.10.55"]
    assert found.evidence[0].reason == (
        "introduced in 5.10.26, fixed by 5.10.43 and 5.10.55 together; 5.10.50 lacks that of 5.10.55"
    )
    assert found.several


def test_the_order_of_several_fixes_in_the_file_does_not_matter() -> None:
    found = ask("6.1.30", "5.4:a:6.1.40:c", "5.4:a:6.1.20:b", "5.4:a:6.4:d")
    assert (found.state, [one.fixed for one in found.evidence]) == (State.AFFECTED, ["6.1.40"])


@pytest.mark.parametrize(
    ("kernel", "state"),
    [
        ("6.1.9", State.AFFECTED),
        ("6.2", State.FIXED),
        ("6.3.4", State.FIXED),
        ("6.4-rc2", State.FIXED),
        ("6.4", State.FIXED),
    ],
)
def test_a_fix_that_landed_twice_in_mainline_counts_from_the_first_on(kernel: str, state: State) -> None:
    assert ask(kernel, "5.4:a:6.2:b", "5.4:a:6.4:c").state is state


@pytest.mark.parametrize(
    ("kernel", "state"), [("6.2.6", State.AFFECTED), ("6.2.7", State.FIXED), ("6.3.2", State.AFFECTED)]
)
def test_a_branch_that_began_with_a_fix_and_got_the_rest_later_needs_the_rest(kernel: str, state: State) -> None:
    assert ask(kernel, "5.4:a:6.2:b", "5.4:a:6.2.7:c", "5.4:a:6.3.5:d", "5.4:a:6.4:e").state is state


def test_a_candidate_that_surely_lacks_one_of_several_fixes_is_affected() -> None:
    assert ask("6.2-rc3", "5.4:a:6.2:b", "5.4:a:6.2.7:c").state is State.AFFECTED
    assert ask("6.2-rc3", "5.4:a:6.2:b", "5.4:a:6.2:c").state is State.UNKNOWN


FIXED_REVERTED_FIXED = ("5.4:a:6.1.20:b", "6.1.25:c:6.1.30:d", "5.4:a:6.4:e")


@pytest.mark.parametrize("again", [(), ("5.4:a:6.1.30:d",)], ids=["once", "of both"])
@pytest.mark.parametrize(
    ("kernel", "state", "asked"),
    [
        ("6.1.10", State.AFFECTED, ["b"]),
        ("6.1.20", State.FIXED, ["b"]),
        ("6.1.24", State.FIXED, ["b"]),
        ("6.1.25", State.AFFECTED, ["d"]),
        ("6.1.29", State.AFFECTED, ["d"]),
        ("6.1.30", State.FIXED, ["b", "d"]),
    ],
)
def test_a_fix_that_was_reverted_and_made_again_is_told_apart_from_the_half_of_one(
    kernel: str, state: State, asked: list[str], again: tuple[str, ...]
) -> None:
    found = ask(kernel, *FIXED_REVERTED_FIXED, *again)
    assert (found.state, [one.fixed_commit for one in found.evidence]) == (state, [commit(one) for one in asked])


def test_a_revert_that_the_record_does_not_name_leaves_two_fixes_of_which_the_last_counts() -> None:
    assert ask("6.1.22", "5.4:a:6.1.20:b", "5.4:a:6.1.30:d", "5.4:a:6.4:e").state is State.AFFECTED


def test_two_point_six_releases_are_mainline() -> None:
    assert ask("5.10.200", "2.6.30:a:6.12:b").state is State.AFFECTED
    assert ask("2.6.29.6", "2.6.30:a:6.12:b").state is State.NOT_AFFECTED
    assert ask("2.6.32.9", "2.6.30:a:2.6.32.8:b").state is State.FIXED


def test_an_unknown_introduction_counts_as_always_present() -> None:
    found = ask("6.1.176", "0:0:6.19:b")
    assert found.state is State.AFFECTED
    assert "at an unknown time" in found.evidence[0].reason
    assert ask("6.19.1", "0:0:6.19:b").state is State.FIXED


def test_a_candidate_of_the_release_that_has_the_fix_is_unknown() -> None:
    found = ask("7.0-rc3", "5.4:a:7.0:b")
    assert found.state is State.UNKNOWN
    assert "7.0-rc3" in found.evidence[0].reason
    assert found.evidence[0].fixed_commit == commit("b")


def test_a_candidate_of_the_release_that_brought_the_bug_is_unknown() -> None:
    assert ask("7.0-rc3", "7.0:a:0:0").state is State.UNKNOWN


def test_a_record_without_usable_ranges_is_unknown_and_says_why() -> None:
    found = assess(Record(id="CVE-2030-10001", title="", defect="It has no .dyad file."), parse_kernel_version("6.1"))
    assert found.state is State.UNKNOWN
    assert found.evidence[0].reason == "It has no .dyad file."


def test_evidence_of_an_affected_kernel_names_the_fix_of_its_branch_first() -> None:
    found = ask("6.1.50", *FOUR_BRANCHES)
    assert [(each.introduced, each.introduced_commit, each.fixed, each.fixed_commit) for each in found.evidence] == [
        ("5.4", commit("a"), "6.1.100", commit("c"))
    ]
    assert found.fixed_in == ("5.10.150", "6.1.100", "6.12")


def test_evidence_of_an_affected_kernel_falls_back_to_mainline_and_to_none() -> None:
    assert ask("5.15.150", *FOUR_BRANCHES).evidence[0].reason == (
        "introduced in 5.4, no fix in 5.15.y, in mainline since 6.12"
    )
    assert ask("5.15.150", "5.4:a:0:0").evidence[0].reason == "introduced in 5.4, and no fix is listed"


def test_evidence_of_an_unaffected_kernel_names_the_introduction_it_lacks() -> None:
    lines = ("5.10.30:a:5.10.33:b", "6.3:d:6.8:e")
    assert ask("5.10.29", *lines).evidence[0].introduced == "5.10.30"
    assert ask("6.1.5", *lines).evidence[0].reason == "introduced in 6.3, which 6.1.5 does not contain"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("5.4:" + commit("a"), "2 fields"),
        (f"6.25:{commit('a')}:7.0:{commit('b')}", "'6.25'"),
        (f"5.4:{commit('a')}:x:{commit('b')}", "'x'"),
        (f"5.4:abc:7.0:{commit('b')}", "'abc'"),
        (f"0:{commit('a')}:7.0:{commit('b')}", "'0'"),
        ("5.4:" + commit("a") + ":0:0\n" * 3000, "lines"),
    ],
)
def test_ranges_that_cannot_be_right_are_not_used_at_all(text: str, says: str) -> None:
    read = parse_dyad(text)
    assert isinstance(read, str)
    assert says in read


def test_lines_of_one_commit_belong_together() -> None:
    read = parse_dyad(
        f"5.4:{commit('a')}:5.10.9:{commit('b')}\n5.6:{commit('c')}:0:0\n5.4:{commit('a')}:7.0:{commit('d')}\n"
    )
    assert read == (
        Introduction(
            parse_kernel_version("5.4"),
            commit("a"),
            (
                FixCommit(parse_kernel_version("5.10.9"), commit("b")),
                FixCommit(parse_kernel_version("7.0"), commit("d")),
            ),
        ),
        Introduction(parse_kernel_version("5.6"), commit("c"), ()),
    )
    unknown = parse_dyad(f"0:0:7.0:{commit('d')}\n")
    assert isinstance(unknown, tuple)
    assert unknown[0].version is BEGINNING


@given(
    st.text(max_size=300) | st.lists(st.sampled_from(["0", "5.4", "6.1.2", ":", "\n", "#", commit("a")])).map("".join)
)
def test_any_text_is_read_as_ranges_or_refused_with_a_sentence(text: str) -> None:
    read = parse_dyad(text)
    assert read if isinstance(read, str) else all(group.version for group in read)
