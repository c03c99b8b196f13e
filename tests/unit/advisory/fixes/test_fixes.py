# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of CVEs: what is wanted, what a directory holds, and the order in which places are asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from wanted_fix import DIFF, KERNEL, NAME, names, wanted

from elivepatch.advisory.exposure.affected import assess
from elivepatch.advisory.fixes.fixes import (
    PATCH_MAX,
    DirectoryFixes,
    Fix,
    Found,
    Wanted,
    dated,
    find_fixes,
    wanted_of,
)
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.record import Findings, Record
from elivepatch.model.errors import ElivepatchError, EnvironmentFault


class TestWhatIsWanted:
    def of(self, dyad: str) -> Wanted:
        read = parse_dyad(dyad)
        assert not isinstance(read, str)
        return wanted_of(assess(Record(id=NAME, title="", introductions=read), KERNEL), KERNEL)

    def test_the_commit_of_the_kernels_own_branch_and_no_other(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.120:{'b' * 40}\n5.4:{'a' * 40}:6.6:{'c' * 40}\n")
        assert [(one.id, str(one.version)) for one in found.commits] == [("b" * 40, "6.1.120")]

    def test_one_for_each_open_introduction_in_the_order_of_their_versions(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.130:{'b' * 40}\n5.8:{'d' * 40}:6.1.120:{'c' * 40}\n")
        assert [one.id[0] for one in found.commits] == ["c", "b"]

    def test_all_of_several_fixes_of_one_introduction(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.130:{'b' * 40}\n5.4:{'a' * 40}:6.1.120:{'c' * 40}\n")
        assert [one.id[0] for one in found.commits] == ["c", "b"]

    def test_those_that_the_kernel_lacks_of_several(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.90:{'b' * 40}\n5.4:{'a' * 40}:6.1.120:{'c' * 40}\n")
        assert [one.id[0] for one in found.commits] == ["c"]

    def test_no_commit_if_only_mainline_has_the_fix_or_no_branch(self) -> None:
        assert self.of(f"5.4:{'a' * 40}:6.6:{'c' * 40}\n").lacking == "no fix in its branch, only in 6.6"
        assert self.of(f"5.4:{'a' * 40}:0:0\n").lacking == "no fix is listed"

    def test_half_a_fix_is_none(self) -> None:
        found = self.of(f"5.4:{'a' * 40}:6.1.130:{'b' * 40}\n5.8:{'d' * 40}:6.6:{'c' * 40}\n")
        assert found.commits == ()
        assert found.lacking


class TestDirectory:
    def find(self, directory: Path, findings: Findings | None = None) -> Fix | None:
        return DirectoryFixes(directory).find(wanted(), findings if findings is not None else Findings())

    def test_a_file_of_the_cves_name(self, tmp_path: Path) -> None:
        (tmp_path / f"{NAME}.patch").write_bytes(DIFF)
        (tmp_path / "CVE-2030-200010.patch").write_bytes(DIFF)
        assert names(self.find(tmp_path)) == [f"{NAME}.patch"]

    def test_several_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        for name in (f"{NAME}-2-light.patch", f"{NAME}-1-oil.diff", "README", f"{NAME}.txt"):
            (tmp_path / name).write_bytes(DIFF)
        assert names(self.find(tmp_path)) == [f"{NAME}-1-oil.diff", f"{NAME}-2-light.patch"]

    def test_a_directory_of_the_cves_name(self, tmp_path: Path) -> None:
        (tmp_path / NAME).mkdir()
        for name in ("0002-light.patch", "0001-oil.patch", "notes"):
            (tmp_path / NAME / name).write_bytes(DIFF)
        assert names(self.find(tmp_path)) == ["0001-oil.patch", "0002-light.patch"]

    def test_what_is_not_there_is_no_fix(self, tmp_path: Path) -> None:
        (tmp_path / "CVE-2030-29999.patch").write_bytes(DIFF)
        assert self.find(tmp_path) is None

    @pytest.mark.parametrize("file", ["", "README", "0001-lamp.patch"])
    def test_a_directory_without_any_fix_is_no_answer(self, tmp_path: Path, file: str) -> None:
        if file:
            (tmp_path / file).write_bytes(DIFF)
        with pytest.raises(EnvironmentFault) as caught:
            self.find(tmp_path)
        assert caught.value.problem.code == "fix-source-empty"

    def several(self, tmp_path: Path, *patches: bytes) -> Found:
        for number, patch in enumerate(patches):
            (tmp_path / f"{NAME}-{number}.patch").write_bytes(patch)
        asked = wanted(("b" * 40, "6.1.120"), ("c" * 40, "6.1.130"))
        return find_fixes([DirectoryFixes(tmp_path)], [asked])

    @pytest.mark.parametrize(
        "patches",
        [
            [DIFF],
            [b"commit " + b"b" * 40 + b" upstream.\n" + DIFF],
            [b"# " + b"b" * 12 + b"\n" + DIFF, DIFF],
        ],
        ids=["one", "one that names one commit", "two of which one names a commit"],
    )
    def test_half_of_a_fix_is_told_and_not_taken(self, tmp_path: Path, patches: list[bytes]) -> None:
        found = self.several(tmp_path, *patches)
        assert found.fixes == {}
        assert found.findings.counts == {"half-fix": 1}
        assert "the list names bbbbbbbbbbbb and cccccccccccc" in found.unanswered[NAME]

    @pytest.mark.parametrize(
        "patches", [[DIFF, DIFF], [b"b" * 40 + b" " + b"c" * 12 + b"\n" + DIFF]], ids=["as many", "one that names both"]
    )
    def test_a_whole_fix_is_taken_and_its_commits_noted(self, tmp_path: Path, patches: list[bytes]) -> None:
        assert self.several(tmp_path, *patches).fixes[NAME].commits == ("b" * 40, "c" * 40)

    @pytest.mark.parametrize("kind", ["link", "pipe", "empty", "large", "directory"])
    def test_what_is_no_patch_is_named_and_the_fix_left_out(self, tmp_path: Path, kind: str) -> None:
        file = tmp_path / f"{NAME}.patch"
        makers: dict[str, Callable[[], object]] = {
            "link": lambda: file.symlink_to("/etc/passwd"),
            "pipe": lambda: os.mkfifo(file),
            "empty": lambda: file.write_bytes(b" \n"),
            "large": lambda: file.write_bytes(b"x" * (PATCH_MAX + 1)),
            "directory": lambda: file.mkdir(),
        }
        makers[kind]()
        findings = Findings()
        assert self.find(tmp_path, findings) is None
        assert findings.counts == {"bad-fix": 1}

    def test_its_date_is_the_patchs_own_else_its_files(self, tmp_path: Path) -> None:
        file = tmp_path / f"{NAME}.patch"
        file.write_bytes(b"From x\nDate: Thu, 2 May 2030 12:00:00 +0200\n\n" + DIFF)
        fix = self.find(tmp_path)
        assert fix is not None
        assert fix.dated == datetime(2030, 5, 2, 10, tzinfo=UTC)
        file.write_bytes(DIFF)
        os.utime(file, (0, 86400))
        fix = self.find(tmp_path)
        assert fix is not None
        assert fix.dated == datetime(1970, 1, 2, tzinfo=UTC)

    def test_a_date_that_is_none_is_not_read(self) -> None:
        assert dated(b"Date: the day before yesterday\n") is None
        assert dated(b"Date: Thu, 99 Foo 2030 12:00:00\n") is None
        assert dated(DIFF) is None


class _Source:
    doubt = ""

    def __init__(self, name: str, answers: dict[str, Fix | ElivepatchError]) -> None:
        self.name = name
        self.asked: list[str] = []
        self._answers = answers

    def concerns(self, wanted: Wanted) -> bool:  # noqa: ARG002 - the Protocol's
        return True

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        pass

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:  # noqa: ARG002 - the Protocol's
        self.asked.append(wanted.cve)
        found = self._answers.get(wanted.cve)
        if isinstance(found, ElivepatchError):
            raise found
        return found


def test_the_first_place_that_has_a_fix_gives_it_and_a_broken_one_is_asked_once(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.patch").write_bytes(DIFF)
    (tmp_path / "CVE-2030-20002.patch").write_bytes(DIFF)
    directory = DirectoryFixes(tmp_path)
    other = directory.find(wanted(cve="CVE-2030-20002"), Findings())
    assert other is not None
    broken = _Source("broken", {NAME: EnvironmentFault("fix-source", "It is away.", advice="Wait.")})
    first = _Source("first", {"CVE-2030-20002": other})
    ids = [NAME, "CVE-2030-20002", "CVE-2030-20003"]
    found = find_fixes([broken, first, directory], [wanted(cve=cve) for cve in ids])
    assert broken.asked == [NAME]
    assert found.fixes[NAME].origin == str(tmp_path)
    assert found.fixes["CVE-2030-20002"] == other
    assert found.missing == {}
    assert found.unanswered == {"CVE-2030-20003": "broken did not answer: It is away."}
    assert [one.as_dict()["place"] for one in found.silent] == ["broken"]
    assert found.findings.total == 0


def test_a_cve_has_no_fix_only_if_every_place_answered(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.patch").write_bytes(DIFF)
    (tmp_path / "CVE-2030-20002.patch").write_bytes(b"")
    found = find_fixes([DirectoryFixes(tmp_path)], [wanted(cve=f"CVE-2030-2000{number}") for number in (1, 2, 3)])
    assert list(found.fixes) == [NAME]
    assert list(found.missing) == ["CVE-2030-20003"]
    assert "It is empty." in found.unanswered["CVE-2030-20002"]


def test_fixes_are_ordered_by_the_version_that_has_them_and_unknown_ones_come_last(tmp_path: Path) -> None:
    orders = []
    for number in range(3):
        (tmp_path / f"CVE-2030-3000{number}.patch").write_bytes(DIFF)
    directory = DirectoryFixes(tmp_path)
    for number, version in enumerate(("6.1.120", "6.1.99", None)):
        one = wanted(*([("b" * 40, version)] if version else []), cve=f"CVE-2030-3000{number}")
        fix = directory.find(one, Findings())
        assert fix is not None
        orders.append((fix.order, number))
    assert [number for _, number in sorted(orders)] == [1, 0, 2]
