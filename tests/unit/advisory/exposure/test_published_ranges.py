# SPDX-License-Identifier: GPL-2.0-or-later
"""Assessments equal the ranges that the records publish as affected, parsed here independently from the JSON."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from elivepatch.advisory.exposure.affected import State, assess, assess_all
from elivepatch.advisory.exposure.version import BEGINNING, KernelVersion, next_release, parse_kernel_version
from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.record import Findings, Record
from elivepatch.model.progress import silent

SMALL = Path(__file__).parents[2] / "data" / "cve-list"
SAMPLE = Path(__file__).parents[5] / "shared" / "data" / "vulns-sample.tar.xz"
KERNELS = ("5.10.200", "5.15.150", "6.1.176", "6.6.50", "6.12.40", "6.18.10", "7.0.5")
FIRST_COMMIT = "1da177e4c3f41524e886b7f1b8a0c1fc7321cac2"

SELF_CONTRADICTING = {
    # Two fixes in 5.12.y: its version ranges are content with the first one, its commit ranges are not.
    "CVE-2021-47124",
    # Nobody knows what introduced it, so its first block says affected from 0 to each fix, across all branches (6.1.176
    # lies below 6.6.113), while its second block says that 6.1.157 and what follows in 6.1.y is fixed. It is.
    "CVE-2025-40190",
    # Two introductions in 6.6.y, one of them without a fix: its version ranges forget that one.
    "CVE-2025-71140",
    # Two fixes each in 5.15.y and 6.1.y, as the first record.
    "CVE-2026-43284",
}


@dataclass(frozen=True)
class Sample:
    records: list[Record]
    published: dict[str, Any]
    first_in: dict[str, str]
    findings: Findings


def _read(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        yield from ((str(file), file.read_bytes()) for file in source.rglob("*") if file.is_file())
        return
    with tarfile.open(source) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield member.name, file.read()


@pytest.fixture(scope="module", params=[SMALL, SAMPLE], ids=["self-made records", "sample of the list"])
def sample(request: pytest.FixtureRequest) -> Sample:
    if not request.param.exists():
        pytest.skip("the collection of real fixes is not there")
    published, first_in = {}, {FIRST_COMMIT: "2.6.12"}
    for name, content in _read(request.param):
        if "/rejected/" in name:
            continue
        if name.endswith(".json"):
            published[Path(name).stem] = json.loads(content)["containers"]["cna"]["affected"]
        elif name.endswith(".dyad"):
            for line in content.decode().splitlines():
                if not line.startswith("#"):
                    fields = line.split(":")
                    first_in |= {fields[1]: fields[0], fields[3]: fields[2]}
    read = read_records(request.param, progress=silent)
    return Sample(records=read.effective(), published=published, first_in=first_in, findings=read.findings)


def _numbers(version: str, fill: int = 0) -> tuple[int, ...]:
    parts = [int(part) for part in version.split(".")]
    return tuple(parts + [fill] * (4 - len(parts)))


def _last(version: str) -> tuple[int, ...]:
    return _numbers("9999", 9999) if version == "*" else _numbers(version.removesuffix(".*"), 9999)


def published_as_affected(blocks: list[dict[str, Any]], kernel: str) -> bool:
    """CVE record format 5: an entry that matches decides, else the block's default; any block can say affected."""
    at = _numbers(kernel)
    for block in blocks:
        status = block["defaultStatus"]
        for entry in block.get("versions", []):
            if entry.get("versionType") == "git":
                continue
            first = _numbers(entry["version"])
            if "lessThan" in entry:
                matches = first <= at < _numbers(entry["lessThan"])
            elif "lessThanOrEqual" in entry:
                matches = first <= at <= _last(entry["lessThanOrEqual"])
            else:
                matches = at == first
            if matches:
                status = entry["status"]
        if status == "affected":
            return True
    return False


def affected_by_commits(blocks: list[dict[str, Any]], kernel: str, first_in: dict[str, str]) -> bool:
    """The git entries: an introducing commit is in the kernel, and a commit that ends its ranges there is not.

    An entry ends in one branch. So the ends in the kernel's own branch count, all of them; without any, a mainline one.
    """
    at = _numbers(kernel)

    def branch_of(version: tuple[int, ...]) -> tuple[int, ...]:
        return version[: 3 if version[:2] == (2, 6) else 2]

    def contains(version: tuple[int, ...]) -> bool:
        of_branch = any(version[len(branch_of(version)) :])
        return version <= at and (not of_branch or branch_of(version) == branch_of(at))

    ends: dict[str, list[tuple[int, ...]]] = {}
    for block in blocks:
        for entry in block.get("versions", []):
            if entry.get("versionType") == "git":
                end = ends.setdefault(entry["version"], [])
                end += [_numbers(first_in[entry["lessThan"]])] if "lessThan" in entry else []
    for start, fixes in ends.items():
        own = [fix for fix in fixes if branch_of(fix) == branch_of(at)]
        closed = all(map(contains, own)) if own else any(map(contains, fixes))
        if contains(_numbers(first_in[start])) and not closed:
            return True
    return False


def around(record: Record) -> list[KernelVersion]:
    """Return the releases around every change that the record lists, and the ends of the branches that it names."""
    listed = {one for group in record.introductions for one in (group.version, *(fix.version for fix in group.fixes))}
    found = set()
    for version in listed - {BEGINNING}:
        levels = {0, version.level - 1, version.level, version.level + 1, 400} - {-1}
        found |= {KernelVersion(branch=version.branch, level=level) for level in levels}
        found.add(next_release(version))
    return sorted(found, key=lambda version: version.order)


def test_every_version_around_every_listed_change_is_answered_as_published_or_its_record_is_named(
    sample: Sample,
) -> None:
    named = {found.name for found in sample.findings.named if found.code == "contradicting-ranges"}
    count, different = 0, set()
    for record in sample.records:
        blocks = sample.published[record.id]
        for kernel in around(record):
            count += 1
            answer = assess(record, kernel)
            affected, text = answer.state is State.AFFECTED, str(kernel)
            assert answer.state is not State.UNKNOWN
            assert affected == affected_by_commits(blocks, text, sample.first_in), (record.id, text)
            if affected != published_as_affected(blocks, text):
                different.add(record.id)
                assert "contradicts itself" in answer.evidence[0].reason, (record.id, text)
    assert different == named
    assert named <= SELF_CONTRADICTING
    if len(sample.records) > 1000:
        assert count >= 29_976
        assert named == SELF_CONTRADICTING


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_evidence_names_commits_that_the_record_publishes(sample: Sample, kernel: str) -> None:
    for answer in assess_all(sample.records, parse_kernel_version(kernel)):
        text = json.dumps(sample.published[answer.record.id])
        for evidence in answer.evidence:
            assert evidence.reason
            assert evidence.introduced_commit in text
            assert evidence.fixed_commit in text
        if answer.state is State.FIXED:
            assert all(evidence.fixed_commit for evidence in answer.evidence)
