# SPDX-License-Identifier: GPL-2.0-or-later
"""A distribution's changelog counts more than its kernel's version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.exposure.affected import State, assess
from elivepatch.advisory.exposure.changelog import Changelog, package_vanilla, read_changelog, with_changelog
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.record import Record

CHANGELOG = """\
linux (6.1.90-2) stable-security; urgency=high

  * [x86] Revert "lamp: measure the oil before lighting it"
  * cellar: do not count the barrels twice. (CVE-2030-20004)
  * rooms: close the door behind the last guest (Closes: #123456)

 -- A Maintainer <maintainer@example.org>  Thu, 02 May 2030 15:50:42 +0200

linux (6.1.90-1) stable; urgency=medium

  * New upstream stable update:
    http://kernel.example/ChangeLog-6.1.89
    - lamp: measure the oil before lighting it (CVE-2030-20001)
    - [arm64] bridge: lift it slowly, so that nobody
      falls into the river (CVE-2030-20002,
      CVE-2030-20003)
    http://kernel.example/ChangeLog-6.1.90
    - garden: water the roses in the evening only

  [ A Maintainer ]
  * Revert "garden: water the roses in the evening only"
  * tower: ring the bell at noon and not at midnight

 -- A Maintainer <maintainer@example.org>  Thu, 02 May 2030 15:50:42 +0200

linux (6.0.3-1) unstable; urgency=medium

  * attic: sweep it before the winter comes (CVE-2030-20005)
  * cellar: do not count the barrels twice (CVE-2030-20004)

 -- A Maintainer <maintainer@example.org>  Thu, 02 May 2029 15:50:42 +0200
"""
KERNEL = parse_kernel_version("6.1.90")


@pytest.fixture(scope="module")
def changelog() -> Changelog:
    read = read_changelog(CHANGELOG)
    assert read is not None
    return read


def record(name: str, title: str, *, fixed: str) -> Record:
    read = parse_dyad(f"5.4:{'a' * 40}:{fixed}:{'b' * 40}\n")
    assert not isinstance(read, str)
    return Record(id=name, title=title, introductions=read)


def state_of(name: str, title: str, *, fixed: str, changelog: Changelog) -> tuple[State, str]:
    judged = with_changelog(assess(record(name, title, fixed=fixed), KERNEL), changelog)
    return judged.state, judged.evidence[0].reason


def test_the_newest_upload_is_the_packages_version(changelog: Changelog) -> None:
    assert changelog.version == "6.1.90-2"


def test_a_cve_is_closed_in_the_newest_upload_of_the_branch_that_names_it(changelog: Changelog) -> None:
    assert changelog.closed == {
        "CVE-2030-20002": "6.1.90-1",
        "CVE-2030-20003": "6.1.90-1",
        "CVE-2030-20004": "6.1.90-2",
    }


def test_what_only_another_branch_named_is_kept_apart(changelog: Changelog) -> None:
    assert changelog.elsewhere == {"CVE-2030-20005": "6.0.3-1"}


def test_only_the_distributions_own_changes_count_as_its_own(changelog: Changelog) -> None:
    assert changelog.own == {
        "cellar: do not count the barrels twice": "6.1.90-2",
        "rooms: close the door behind the last guest": "6.1.90-2",
        "tower: ring the bell at noon and not at midnight": "6.1.90-1",
    }


def test_what_was_taken_back_after_it_came_is_reverted(changelog: Changelog) -> None:
    assert changelog.reverted == {
        "lamp: measure the oil before lighting it": "6.1.90-2",
        "garden: water the roses in the evening only": "6.1.90-1",
    }


def test_what_was_taken_back_and_brought_again_is_not_reverted() -> None:
    first, _, rest = CHANGELOG.partition("\n\n")
    again = read_changelog(f"{first}\n\n  * lamp: measure the oil before lighting it\n\n{rest}")
    assert again is not None
    assert "lamp: measure the oil before lighting it" in again.reverted
    newer = read_changelog(
        "linux (6.1.91-1) s; u\n\n  * lamp: measure the oil before lighting it (CVE-2030-20001)\n\n" + CHANGELOG
    )
    assert newer is not None
    assert "lamp: measure the oil before lighting it" not in newer.reverted
    assert newer.closed["CVE-2030-20001"] == "6.1.91-1"


def test_an_affected_version_is_fixed_where_the_changelog_names_the_cve(changelog: Changelog) -> None:
    state, reason = state_of("CVE-2030-20002", "bridge: lift it", fixed="6.1.95", changelog=changelog)
    assert state is State.FIXED
    assert reason == "introduced in 5.4, fixed in 6.1.95; the changelog of 6.1.90-1 names it as closed"


def test_an_affected_version_is_fixed_where_the_distribution_added_the_change_of_that_title(
    changelog: Changelog,
) -> None:
    title = "rooms: close the door behind the last guest"
    assert state_of("CVE-2030-29999", title, fixed="6.1.95", changelog=changelog)[0] is State.FIXED
    # The title of a stable update's change says nothing that the version does not say better.
    title = "garden: water the roses in the evening only"
    assert state_of("CVE-2030-29999", title, fixed="6.1.95", changelog=changelog)[0] is State.AFFECTED


def test_a_changelog_that_names_a_cve_of_several_fixes_does_not_close_it(changelog: Changelog) -> None:
    """An upload that took one of them names the CVE too."""
    name, later = next(iter(changelog.closed)), KERNEL.level + 10
    branch = ".".join(map(str, KERNEL.branch))
    ranges = [f"5.4:{'a' * 40}:{branch}.{later + more}:{commit * 40}" for more, commit in enumerate("bc")]
    read = parse_dyad("\n".join(ranges))
    assert not isinstance(read, str)
    one = parse_dyad(ranges[0])
    assert not isinstance(one, str)
    for ranges_read, state in ((read, State.AFFECTED), (one, State.FIXED)):
        found = with_changelog(assess(Record(id=name, title="", introductions=ranges_read), KERNEL), changelog)
        assert found.state is state
    told = with_changelog(assess(Record(id=name, title="", introductions=read), KERNEL), changelog)
    assert "the branch needs several" in told.evidence[0].reason


def test_a_cve_that_only_another_branch_named_is_unknown(changelog: Changelog) -> None:
    assert state_of("CVE-2030-20005", "attic: sweep it", fixed="6.1.95", changelog=changelog)[0] is State.UNKNOWN


def test_a_fix_that_was_taken_back_is_unknown(changelog: Changelog) -> None:
    title = "lamp: measure the oil before lighting it"
    state, reason = state_of("CVE-2030-20001", title, fixed="6.1.89", changelog=changelog)
    assert state is State.UNKNOWN
    assert "6.1.90-2" in reason


def test_a_version_that_the_changelog_says_nothing_about_keeps_its_answer(changelog: Changelog) -> None:
    assert state_of("CVE-2030-29998", "x", fixed="6.1.95", changelog=changelog)[0] is State.AFFECTED
    assert state_of("CVE-2030-29998", "x", fixed="6.1.80", changelog=changelog)[0] is State.FIXED
    assert state_of("CVE-2030-20005", "x", fixed="6.1.80", changelog=changelog)[0] is State.FIXED


@pytest.mark.parametrize(
    ("package", "vanilla"),
    [
        ("6.1.176-1", "6.1.176"),
        ("6.12.107-1~bpo12+1", "6.12.107"),
        ("7.2~rc3-1~exp1", "7.2-rc3"),
        ("1:5.10.1-2+b3", "5.10.1"),
        ("7.2.13", "7.2.13"),
        ("6.1-1", "6.1"),
        ("2:1.2.3-4", None),
        ("banana", None),
        ("", None),
    ],
)
def test_the_vanilla_version_is_read_from_the_packages(package: str, vanilla: str | None) -> None:
    found = package_vanilla(package)
    assert (None if found is None else str(found)) == vanilla


def test_a_text_without_an_upload_is_no_changelog() -> None:
    assert read_changelog("") is None
    assert read_changelog("  * an entry of nobody\n    - and its child\n") is None


@given(st.text(alphabet="linux (6.1.90-2);*-+ \n\tRevert\"'CVE-2030-1", max_size=400))
def test_no_text_breaks_the_reader(text: str) -> None:
    read = read_changelog(text)
    assert read is None or Changelog.from_dict(read.as_dict()) == read
