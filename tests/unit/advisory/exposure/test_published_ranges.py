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

from elivepatch.advisory.exposure.affected import State, assess_all
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.record import Record
from elivepatch.model.progress import silent

SMALL = Path(__file__).parents[2] / "data" / "cve-list"
SAMPLE = Path(__file__).parents[5] / "shared" / "data" / "vulns-sample.tar.xz"
KERNELS = ("5.10.200", "5.15.150", "6.1.176", "6.6.50", "6.12.40", "6.18.10", "7.0.5")
FIRST_COMMIT = "1da177e4c3f41524e886b7f1b8a0c1fc7321cac2"

SELF_CONTRADICTING = {
    # Nobody knows what introduced it, so its first block says affected from 0 to each fix, across all branches (6.1.176
    # lies below 6.6.113), while its second block says that 6.1.157 and what follows in 6.1.y is fixed. It is.
    ("CVE-2025-40190", "6.1.176"),
}


@dataclass(frozen=True)
class Sample:
    records: list[Record]
    published: dict[str, Any]
    first_in: dict[str, str]


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
    return Sample(
        records=read_records(request.param, progress=silent).effective(), published=published, first_in=first_in
    )


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
    """The git entries: an introducing commit is in the kernel, and no commit that ends one of its ranges is."""

    def contains(commit: str) -> bool:
        version, at = _numbers(first_in[commit]), _numbers(kernel)
        width = 3 if version[:2] == (2, 6) else 2
        if any(version[width:]):
            return version[:width] == at[:width] and version <= at
        return version <= at

    ends: dict[str, list[str]] = {}
    for block in blocks:
        for entry in block.get("versions", []):
            if entry.get("versionType") == "git":
                end = ends.setdefault(entry["version"], [])
                end += [entry["lessThan"]] if "lessThan" in entry else []
    return any(contains(start) and not any(contains(fix) for fix in fixes) for start, fixes in ends.items())


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_answer_equals_the_published_version_ranges(sample: Sample, kernel: str) -> None:
    answers = assess_all(sample.records, parse_kernel_version(kernel))
    assert {answer.record.id for answer in answers} == set(sample.published)
    different = {
        (answer.record.id, kernel)
        for answer in answers
        if (answer.state is State.AFFECTED) != published_as_affected(sample.published[answer.record.id], kernel)
    }
    assert different <= SELF_CONTRADICTING
    assert len(different) * 1000 <= len(answers)
    assert not [answer for answer in answers if answer.state is State.UNKNOWN]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_answer_equals_the_published_commit_ranges(sample: Sample, kernel: str) -> None:
    answers = assess_all(sample.records, parse_kernel_version(kernel))
    different = {
        answer.record.id
        for answer in answers
        if (answer.state is State.AFFECTED)
        != affected_by_commits(sample.published[answer.record.id], kernel, sample.first_in)
    }
    assert not different


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
