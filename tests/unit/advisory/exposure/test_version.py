# SPDX-License-Identifier: GPL-2.0-or-later
"""Vanilla versions: what can be one, what to give instead, and what contains what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.exposure.version import BEGINNING, KernelVersion, listed_version, parse_kernel_version, reached
from elivepatch.model.errors import UsageError


@pytest.mark.parametrize(
    ("text", "branch", "level", "rc"),
    [
        ("5.10.200", (5, 10), 200, None),
        ("6.1", (6, 1), 0, None),
        ("6.1.0", (6, 1), 0, None),
        ("7.1-rc3", (7, 1), 0, 3),
        ("5.10.246-rc1", (5, 10), 246, 1),
        ("2.6.12", (2, 6, 12), 0, None),
        ("2.6.32.71", (2, 6, 32), 71, None),
        ("3.0", (3, 0), 0, None),
    ],
)
def test_vanilla_versions_are_read(text: str, branch: tuple[int, ...], level: int, rc: int | None) -> None:
    assert parse_kernel_version(text) == KernelVersion(branch=branch, level=level, rc=rc)


@pytest.mark.parametrize(
    "text",
    ["", "6", "6.", "6.x", "6.1.2.3", "2.6", "2.6.11", "2.4.37", "2.7.1", "2.6.40", "6.20", "5.20.1", "3.25", "-6.1"],
)
def test_versions_the_kernel_never_had_are_refused(text: str) -> None:
    _refused(text)


@pytest.mark.parametrize("text", ["6.1-rc0", "6.1.99999", "99999.1", "6.1.176\n", "\uff16.1", "6..1", "0.0", "v6.1"])
def test_what_is_not_written_as_a_version_is_refused(text: str) -> None:
    _refused(text)


def _refused(text: str) -> None:
    assert listed_version(text) is None
    with pytest.raises(UsageError) as caught:
        parse_kernel_version(text)
    assert caught.value.problem.code == "cve-kernel-version"


@pytest.mark.parametrize(
    ("text", "say"),
    [
        ("6.1.176-1", "give --kernel 6.1.176"),
        ("6.1.176-1~deb12u1", "give --kernel 6.1.176"),
        ("6.12.107+deb13-cloud-amd64", "give --kernel 6.12.107"),
        ("6.18.10-gentoo", "give --kernel 6.18.10"),
        ("6.12.40+", "give --kernel 6.12.40"),
        ("5.14.0-503.11.1.el9_5.x86_64", "vanilla version"),
        ("6.1.0-50-cloud-amd64", "Run `uname -v`"),
        ("5.10.0-0.bpo.15-amd64", "Run `uname -v`"),
        ("6.1.0-50-amd64", "Run `uname -v`"),
    ],
)
def test_a_distribution_release_is_refused_with_what_to_give_instead(text: str, say: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_kernel_version(text)
    assert caught.value.problem.code == "cve-kernel-distribution"
    assert say in caught.value.problem.advice


@pytest.mark.parametrize(
    ("change", "kernel", "contained"),
    [
        ("6.1", "6.1.176", True),
        ("6.1", "6.0.9", False),
        ("6.1.176", "6.1.176", True),
        ("6.1.177", "6.1.176", False),
        ("6.1.50", "6.6.10", False),  # an update of another branch is in no other branch
        ("2.6.30", "2.6.32.9", True),
        ("2.6.30", "7.0.5", True),  # 2.6.N are mainline releases
        ("2.6.32.9", "2.6.33", False),
        ("2.6.39", "3.0", True),
        ("6.19", "7.0-rc1", True),
        ("7.0", "7.0-rc7", None),  # the list names the release, not the candidate
        ("7.0-rc2", "7.0-rc3", True),
        ("7.0-rc4", "7.0-rc3", False),
        ("7.0-rc4", "7.0", True),
        ("7.1", "7.0-rc3", False),
        ("6.1.176", "6.1.176-rc1", None),
        ("6.1.175", "6.1.176-rc1", True),
    ],
)
def test_a_kernel_contains_earlier_mainline_and_its_own_branch(
    change: str, kernel: str, contained: bool | None
) -> None:
    assert reached(parse_kernel_version(change), parse_kernel_version(kernel)) is contained


versions = st.one_of(
    st.builds(
        lambda branch, level, rc: KernelVersion(branch=branch, level=level, rc=rc),
        st.sampled_from([(2, 6, 12), (2, 6, 39), (3, 0), (4, 20), (5, 10), (6, 1), (7, 0), (7, 25)]),
        st.integers(0, 400),
        st.none() | st.integers(1, 12),
    )
)


@given(versions)
def test_every_version_is_read_back_from_its_text(version: KernelVersion) -> None:
    assert listed_version(str(version)) == version


@given(versions)
def test_every_version_contains_itself_and_the_unknown_beginning(version: KernelVersion) -> None:
    assert reached(version, version) is True
    assert reached(BEGINNING, version) is True


@given(versions, versions)
def test_nothing_contains_what_comes_later(change: KernelVersion, kernel: KernelVersion) -> None:
    if change.order > kernel.order and change.branch != kernel.branch:
        assert reached(change, kernel) is False


@given(st.text(max_size=40))
def test_any_text_is_a_version_or_a_usage_error(text: str) -> None:
    try:
        version = parse_kernel_version(text)
    except UsageError:
        assert listed_version(text) is None
    else:
        assert version == listed_version(text)
