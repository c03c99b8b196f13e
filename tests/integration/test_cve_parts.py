# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of several parts: a CVE is closed when all parts are live, and a reboot is advised only if it helps."""

from __future__ import annotations

from pathlib import Path

import pytest
from cve_commands import choices, cve, reasons, states
from cve_list import CveList
from cve_server import CveServer
from host_commands import Ran, run, run_json
from simulated_host import RELEASE, SimulatedHost

from elivepatch.advisory.exposure.verdicts import FixOutcome
from elivepatch.client.cve.cache import DIRECTORY, CveCache

pytestmark = pytest.mark.integration

NAME = "CVE-2030-30001"
FIRST, SECOND = "b" * 40, "c" * 40


@pytest.fixture
def cves(tmp_path: Path) -> CveList:
    return CveList(tmp_path / "list")


def listed(cves: CveList, *fixes: str) -> None:
    """Let the record of NAME name these fixes, as `VERSION:COMMIT`."""
    lines = "".join(f"5.4:{'a' * 40}:{fix}\n" for fix in fixes)
    (cves.records / f"{NAME}.dyad").write_text(lines)


def part(cves: CveList, number: int, *words: str) -> None:
    """Add a source patch of NAME that contains `words`."""
    diff = f"--- a/drivers/lamp/part{number}.c\n+++ b/drivers/lamp/part{number}.c\n@@ -1 +1 @@\n-dark\n+{number}\n"
    text = "\n".join([f"function part_{number}", *words, diff])
    (cves.fixes / f"{NAME}-{number}.patch").write_text(text)


@pytest.fixture
def two(cves: CveList) -> CveList:
    """A CVE that two commits of the kernel's branch fix, each with its source patch."""
    cves.add(1)
    listed(cves, f"6.1.178:{FIRST}", f"6.1.180:{SECOND}", f"6.6:{'d' * 40}")
    part(cves, 1)
    part(cves, 2)
    return cves


def closed(host: SimulatedHost, cves: CveList) -> Ran:
    return run_json(host, "cve", "closed", NAME, "--records", cves.records)


def test_all_parts_are_asked_for_built_together_and_close_the_cve(
    host: SimulatedHost, two: CveList, server: CveServer
) -> None:
    ran = cve(host, two, "close")
    assert ran.document["closed_now"] == [NAME]
    assert server.asked[0] == ("check", [f"{NAME}-1.patch", f"{NAME}-2.patch"])
    assert [patch.name for patch in host.store.record().set.series] == [f"{NAME}-1.patch", f"{NAME}-2.patch"]
    assert states(host, two)["closed"] == 1
    answer = closed(host, two)
    assert (answer.status, answer.document["by"]) == (0, "livepatch")


def test_one_part_that_is_live_closes_nothing(host: SimulatedHost, two: CveList) -> None:
    assert run(host, "apply", two.fixes / f"{NAME}-1.patch").status == 0
    assert choices(cve(host, two, "plan")) == {NAME: "chosen"}
    assert states(host, two)["closed"] == 0
    assert (closed(host, two).status, closed(host, two).document["by"]) == (1, "open")
    assert cve(host, two, "close").document["closed_now"] == [NAME]
    assert closed(host, two).status == 0


def test_a_part_that_the_list_names_later_opens_the_cve_again(host: SimulatedHost, two: CveList) -> None:
    listed(two, f"6.1.178:{FIRST}")
    (two.fixes / f"{NAME}-2.patch").unlink()
    assert cve(host, two, "close").document["closed_now"] == [NAME]
    assert closed(host, two).status == 0
    listed(two, f"6.1.178:{FIRST}", f"6.1.180:{SECOND}")
    assert closed(host, two).status == 1, "before any plan has looked"
    assert choices(cve(host, two, "plan"), status=4) == {NAME: "unanswered"}
    assert "half of a fix" in reasons(cve(host, two, "plan"))[NAME]
    part(two, 2)
    assert choices(cve(host, two, "plan")) == {NAME: "chosen"}
    assert cve(host, two, "close").document["closed_now"] == [NAME]
    assert closed(host, two).status == 0
    assert choices(cve(host, two, "close")) == {NAME: "closed"}


@pytest.mark.parametrize("there", [1, 2])
def test_a_part_that_the_source_has_is_left_out_and_the_other_one_built(
    host: SimulatedHost, two: CveList, server: CveServer, there: int
) -> None:
    part(two, there, "applied")
    ran = cve(host, two, "close")
    assert ran.document["closed_now"] == [NAME], ran.err
    assert [patch.name for patch in host.store.record().set.series] == [f"{NAME}-{3 - there}.patch"]
    assert closed(host, two).document["by"] == "livepatch"
    asked = len(server.asked)
    assert choices(cve(host, two, "close")) == {NAME: "closed"}
    assert len(server.asked) == asked


def test_a_source_that_has_all_parts_is_fixed(host: SimulatedHost, two: CveList) -> None:
    for number in (1, 2):
        part(two, number, "applied")
    assert choices(cve(host, two, "plan")) == {NAME: "nothing-to-do"}
    assert closed(host, two).document["by"] == "release"


def test_a_part_that_another_fix_brings_along_does_not_close_the_cve(host: SimulatedHost, two: CveList) -> None:
    other = two.add(2, "ok", fixed=177)
    part(two, 2, f"same-as {other}")
    ran = cve(host, two, "close")
    assert ran.document["closed_now"] == [other]
    assert choices(ran)[NAME] == "needs-reboot"
    assert closed(host, two).status == 1


def test_verdicts_of_an_earlier_version_close_no_cve_of_several_parts(host: SimulatedHost, two: CveList) -> None:
    cve(host, two, "close")
    cache = CveCache(host.root / DIRECTORY)
    file = cache._verdicts_file(RELEASE)
    cache.keep_verdicts(cache.verdicts(RELEASE))
    file.write_text(file.read_text().replace(f'"{FIRST}"', "").replace(f'"{SECOND}"', "").replace(",\n    \n", "\n"))
    text = file.read_text()
    begin = text.index('"commits": [')
    file.write_text(text[:begin] + '"commits": []' + text[text.index("]", begin) + 1 :])
    assert cache.verdicts(RELEASE).by_cve[NAME].commits == ()
    assert closed(host, two).status == 1
    assert choices(cve(host, two, "plan")) == {NAME: "closed"}, "its patches are looked up and all live"
    assert closed(host, two).status == 0


@pytest.mark.parametrize(
    ("word", "in_branch", "choice", "says"),
    [
        ("refused", True, "needs-reboot", "6.1.180 has the fix"),
        ("thread-main", True, "needs-reboot", "6.1.180 has the fix"),
        ("needs another", True, "needs-reboot", "6.1.180 has the fix"),
        ("refused", False, "fix-incomplete", "no newer kernel of this branch has the fix"),
        ("needs another", False, "fix-incomplete", "fix incomplete: prerequisites missing"),
    ],
)
def test_a_reboot_is_advised_only_where_a_newer_kernel_has_the_fix(
    host: SimulatedHost, cves: CveList, word: str, in_branch: bool, choice: str, says: str
) -> None:
    cves.add(1, word)
    listed(cves, *([f"6.1.180:{FIRST}"] if in_branch else []), f"6.6:{'d' * 40}")
    ran = cve(host, cves, "plan")
    assert choices(ran) == {NAME: choice}
    assert says in reasons(ran)[NAME]
    (told,) = run_json(host, "cve", "list", "--records", cves.records).document
    assert told["fix"]["outcome"] == choice
    assert states(host, cves)["fixes"][choice] == 1
    assert CveCache(host.root / DIRECTORY).verdicts(RELEASE).by_cve[NAME].outcome is FixOutcome.NEEDS_REBOOT
    action = run_json(host, "cve", "list", "--records", cves.records, "--openvex").document["statements"][0]
    assert ("Boot a kernel" in action["action_statement"]) == in_branch


def test_a_fix_that_does_not_go_with_the_others_needs_a_reboot_only_where_that_helps(
    host: SimulatedHost, cves: CveList
) -> None:
    other = cves.add(2, "ok", fixed=177)
    cves.add(1, f"clashes {other}")
    listed(cves, f"6.6:{'d' * 40}")
    ran = cve(host, cves, "close")
    assert choices(ran)[NAME] == "fix-incomplete"
    assert "does not go with the others" in reasons(ran)[NAME]
    assert choices(cve(host, cves, "plan"))[NAME] == "fix-incomplete"
