# SPDX-License-Identifier: GPL-2.0-or-later
"""CVEs from before the kernel's own list are read from the two files of the project that kept them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elivepatch.advisory.exposure.affected import State, assess
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.index import read_index
from elivepatch.advisory.records.legacy_records import with_older
from elivepatch.advisory.records.record import Findings, Record, Records
from elivepatch.advisory.records.refresh import refresh_index
from elivepatch.model.errors import UsageError
from elivepatch.model.progress import silent

LIST = Path(__file__).parents[2] / "data" / "cve-list"
NAME = "CVE-2019-90001"
ENTRY = {
    "affected_versions": "v4.8-rc1 to v5.4-rc3",
    "breaks": "a" * 40,
    "fixes": "b" * 40,
    "cmt_msg": "lamp: do not burn the table",
    "nvd_text": "The lamp burns the table.",
    "cvss3": {"score": "7.8", "raw": "CVSS:3.0/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H"},
}
STREAMS = {"4.19": {"cmt_id": "c" * 40, "fixed_version": "4.19.80"}}


@pytest.fixture
def records() -> Records:
    return read_records(LIST, progress=silent)


def write(top: Path, mainline: Any, streams: Any) -> Path:
    top.mkdir(parents=True, exist_ok=True)
    (top / "kernel_cves.json").write_text(json.dumps(mainline))
    (top / "stream_fixes.json").write_text(json.dumps(streams))
    return top


def one(top: Path, records: Records, entry: Any, streams: Any = STREAMS) -> Record:
    found = with_older(records, write(top, {NAME: entry}, {NAME: streams}), Findings())
    return found.listed[NAME]


def state(record: Record, kernel: str) -> State:
    return assess(record, parse_kernel_version(kernel)).state


def test_its_fixes_of_all_branches_count(tmp_path: Path, records: Records) -> None:
    record = one(tmp_path, records, ENTRY)
    assert (record.title, record.severity, record.score, record.older) == (ENTRY["cmt_msg"], "high", 78, True)
    assert {kernel: str(state(record, kernel)) for kernel in ("4.4.200", "4.14.200", "4.19.79", "4.19.80", "5.10")} == {
        "4.4.200": "not-affected",
        "4.14.200": "affected",
        "4.19.79": "affected",
        "4.19.80": "fixed",
        "5.10": "fixed",
    }
    (evidence,) = assess(record, parse_kernel_version("4.19.79")).evidence
    assert (evidence.introduced_commit, evidence.fixed, evidence.fixed_commit) == ("a" * 40, "4.19.80", "c" * 40)


def test_a_bug_of_unknown_origin_was_always_there(tmp_path: Path, records: Records) -> None:
    record = one(tmp_path, records, ENTRY | {"affected_versions": "unk to v5.4-rc3", "breaks": ""})
    assert (state(record, "2.6.32.1"), state(record, "5.4")) == (State.AFFECTED, State.FIXED)


def test_the_withdrawn_candidate_is_a_candidate(tmp_path: Path, records: Records) -> None:
    record = one(tmp_path, records, ENTRY | {"affected_versions": "v5.10-rc1 to v5.12-rc1-dontuse"}, {})
    assert (state(record, "5.11.3"), state(record, "5.12")) == (State.AFFECTED, State.FIXED)


@pytest.mark.parametrize(
    ("versions", "streams"),
    [
        ("v4.8-rc1 to unk", {}),
        ("unk to unk", {}),
        ("v9.99.99.9 to v5.4", STREAMS),
        ("5.4", STREAMS),
        (None, STREAMS),
        ("v4.8-rc1 to v5.4-rc3", {"4.19": {"fixed_version": "yes"}}),
        ("v4.8-rc1 to v5.4-rc3", {"4.19": 3}),
    ],
)
def test_ranges_that_decide_nothing_are_unknown_and_not_safe(
    tmp_path: Path, records: Records, versions: Any, streams: Any
) -> None:
    record = one(tmp_path, records, ENTRY | {"affected_versions": versions}, streams)
    assert record.defect
    assert state(record, "6.1.176") is State.UNKNOWN


def test_the_kernels_own_list_goes_before(tmp_path: Path, records: Records) -> None:
    listed, withdrawn = next(iter(records.listed)), next(iter(records.rejected))
    older = write(tmp_path, {listed: ENTRY, withdrawn: ENTRY, NAME: ENTRY | {"rejected": True}}, {})
    assert with_older(records, older, Findings()) == records


def test_an_entry_that_is_none_is_named_and_the_rest_goes_on(tmp_path: Path, records: Records) -> None:
    findings = Findings()
    found = with_older(records, write(tmp_path, {"x\x1b": ENTRY, "CVE-2019-90002": [], NAME: ENTRY}, {}), findings)
    assert NAME in found.listed
    assert findings.counts == {"bad-record": 2}
    assert "\x1b" not in findings.named[0].name


def test_a_clone_has_the_files_in_its_data(tmp_path: Path, records: Records) -> None:
    write(tmp_path / "data", {NAME: ENTRY}, {})
    assert NAME in with_older(records, tmp_path, Findings()).listed


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '"x"'])
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, records: Records, content: str) -> None:
    write(tmp_path, {}, {})
    (tmp_path / "stream_fixes.json").write_text(content)
    with pytest.raises(UsageError) as caught:
        with_older(records, tmp_path, Findings())
    assert caught.value.problem.code == "cve-older"


def test_a_directory_without_them_is_refused(tmp_path: Path, records: Records) -> None:
    with pytest.raises(UsageError) as caught:
        with_older(records, tmp_path, Findings())
    assert "kernel_cves.json" in caught.value.problem.message


def test_an_index_keeps_them_and_lets_them_go_again(tmp_path: Path) -> None:
    file, older = tmp_path / "cve.idx", write(tmp_path / "older", {NAME: ENTRY}, {NAME: STREAMS})
    made = refresh_index(file, LIST, older=older, overrides=None, progress=silent)
    assert (made.as_dict()["older"], made.size) == (1, file.stat().st_size)
    assert read_index(file).listed[NAME] == made.records.listed[NAME]
    again = refresh_index(file, LIST, older=older, overrides=None, progress=silent)
    assert again.unchanged == len(made.records.listed)
    assert NAME not in refresh_index(file, LIST, older=None, overrides=None, progress=silent).records.listed
