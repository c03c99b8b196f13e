# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve` as a person and a program meet it."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from elivepatch.client.cli import main
from elivepatch.model.errors import ExitStatus

SMALL = Path(__file__).parents[2] / "data" / "cve-list"


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cve(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def run(*arguments: object) -> Ended:
        status = main(["cve", *map(str, arguments)])
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return run


def test_list_gives_every_record_with_its_state_in_json(cve: Callable[..., Ended]) -> None:
    ended = cve("list", "--records", SMALL, "--kernel", "6.1.176", "--json")
    assert ended.status == ExitStatus.OK
    assert {each["id"][-1]: each["state"] for each in ended.document} == {
        "1": "fixed",
        "2": "not-affected",
        "3": "affected",
        "4": "affected",
        "5": "affected",
        "6": "fixed",
        "7": "not-affected",
        "8": "not-affected",
    }
    first = ended.document[0]
    assert first["title"] == "lamp: do not free the wick twice"
    assert first["files"] == ["drivers/lamp/wick.c"]
    assert first["fixed_in"] == ["5.10.150", "6.1.100", "6.6.60", "6.12"]
    assert (first["severity"], first["score"]) == ("high", 7.8)
    assert first["evidence"][0]["fixed"] == "6.1.100"
    assert len(first["evidence"][0]["fixed_commit"]) == 40


def test_list_can_be_narrowed_to_states(cve: Callable[..., Ended]) -> None:
    ended = cve("list", "--records", SMALL, "--kernel", "6.1.176", "--json", "--state", "fixed", "--state", "unknown")
    assert [each["id"][-1] for each in ended.document] == ["1", "6"]


def test_list_is_a_plain_table_for_people(cve: Callable[..., Ended]) -> None:
    ended = cve("list", "--records", SMALL, "--kernel", "6.12.40", "--state", "affected")
    lines = ended.out.splitlines()
    assert lines[0].split() == ["CVE", "STATE", "SEVERITY", "FIXED", "IN", "TITLE"]
    assert lines[2].split()[:4] == ["CVE-2030-10004", "affected", "unrated", "6.12.41"]
    assert re.fullmatch(r"3 of 8 records \(the newest of \d{4}-\d\d-\d\d\), Linux 6\.12\.40", lines[-1])


def test_list_puts_exploited_cves_first(cve: Callable[..., Ended], tmp_path: Path) -> None:
    kev = tmp_path / "kev.json"
    kev.write_text('{"vulnerabilities": [{"cveID": "CVE-2030-10008", "dateAdded": "2030-05-01"}]}')
    document = cve("list", "--records", SMALL, "--kernel", "7.0.5", "--kev", kev, "--json").document
    assert (document[0]["id"], document[0]["exploited_since"]) == ("CVE-2030-10008", "2030-05-01")


def test_a_candidate_is_unknown_if_the_list_does_not_decide(cve: Callable[..., Ended]) -> None:
    document = cve("list", "--records", SMALL, "--kernel", "7.1-rc2", "--json", "--state", "unknown").document
    assert [each["id"] for each in document] == ["CVE-2030-10003"]


def test_show_prints_the_ranges_and_the_state_with_its_reason(cve: Callable[..., Ended]) -> None:
    ended = cve("show", "CVE-2030-10002", "--records", SMALL, "--kernel", "5.15.150")
    assert "affected on Linux 5.15.150" in ended.out
    assert "introduced in 5.15.101, and no fix is listed" in ended.out
    document = cve("show", "CVE-2030-10002", "--records", SMALL, "--json").document
    assert "state" not in document
    assert [group["introduced"] for group in document["ranges"]] == ["5.10.30", "6.3", "5.15.101"]


def test_show_says_that_a_cve_was_rejected(cve: Callable[..., Ended]) -> None:
    assert "rejected" in cve("show", "CVE-2030-10009", "--records", SMALL).out
    assert cve("show", "CVE-2030-10009", "--records", SMALL, "--json").document["state"] == "rejected"


def test_summary_adds_up(cve: Callable[..., Ended]) -> None:
    document = cve("summary", "--records", SMALL, "--kernel", "6.12.40", "--json").document
    assert document["states"] == {"affected": 3, "fixed": 4, "not-affected": 1, "unknown": 0}
    assert document["affected"]["fix"] == {"branch": 1, "mainline": 2, "none": 0}
    assert document["affected"]["drivers_only"] == 1
    assert document["rejected"] == 1
    text = cve("summary", "--records", SMALL, "--kernel", "6.12.40").out
    assert "fixed in a later 6.12.y" in text


def test_the_branch_of_a_fix_is_not_mistaken_for_one_that_starts_alike(cve: Callable[..., Ended]) -> None:
    document = cve("summary", "--records", SMALL, "--kernel", "6.1.50", "--json").document
    assert document["affected"]["fix"] == {"branch": 2, "mainline": 3, "none": 0}


def test_an_index_answers_as_the_list_does(cve: Callable[..., Ended], tmp_path: Path) -> None:
    index = tmp_path / "cve.idx"
    made = cve("index", "--records", SMALL, "-o", index, "--json").document
    assert (made["records"], made["unchanged"], made["rejected"]) == (8, 0, 1)
    assert made["size_bytes"] == index.stat().st_size
    wanted = ("--kernel", "6.6.50", "--json")
    assert cve("list", "--records", index, *wanted).out == cve("list", "--records", SMALL, *wanted).out


def test_an_index_is_brought_up_to_date(cve: Callable[..., Ended], tmp_path: Path) -> None:
    source = shutil.copytree(SMALL, tmp_path / "list")
    index = tmp_path / "cve.idx"
    cve("index", "--records", source, "-o", index)
    file = source / "cve/published/2030/CVE-2030-10001.json"
    file.write_text(file.read_text().replace("wick twice", "wick thrice"))
    assert cve("index", "--records", source, "-o", index, "--json").document["unchanged"] == 7
    assert "thrice" in cve("show", "CVE-2030-10001", "--records", index).out


def test_a_damaged_index_is_made_from_scratch_with_a_note(cve: Callable[..., Ended], tmp_path: Path) -> None:
    index = tmp_path / "cve.idx"
    cve("index", "--records", SMALL, "-o", index)
    index.write_bytes(index.read_bytes()[:-1])
    damaged = cve("list", "--records", index, "--kernel", "6.1.176")
    assert damaged.status == ExitStatus.TRUST
    assert "[cve-index-damaged]" in damaged.err
    again = cve("index", "--records", SMALL, "-o", index)
    assert again.status == ExitStatus.OK
    assert "made from scratch" in again.err
    assert cve("list", "--records", index, "--kernel", "6.1.176").status == ExitStatus.OK


def test_overrides_are_kept_in_the_index(cve: Callable[..., Ended], tmp_path: Path) -> None:
    overrides = tmp_path / "overrides.toml"
    overrides.write_text('[CVE-2030-10005]\nwhy = "measured here"\ntitle = "chest: lock it twice"\n')
    index = tmp_path / "cve.idx"
    cve("index", "--records", SMALL, "--overrides", overrides, "-o", index)
    shown = cve("show", "CVE-2030-10005", "--records", index).out
    assert "lock it twice" in shown
    assert "measured here" in shown


def test_older_cves_are_put_beside_the_list_and_marked(cve: Callable[..., Ended], tmp_path: Path) -> None:
    entry = {"affected_versions": "v4.8-rc1 to v5.4-rc3", "fixes": "b" * 40, "cmt_msg": "lamp: be dark"}
    (tmp_path / "kernel_cves.json").write_text(json.dumps({"CVE-2019-90001": entry, "nonsense": 1}))
    (tmp_path / "stream_fixes.json").write_text("{}")
    given = ("--records", SMALL, "--older", tmp_path)
    ended = cve("list", *given, "--kernel", "4.19.5", "--json")
    assert "nonsense: It is not an entry about a CVE" in ended.err
    assert [(each["state"], each["older"]) for each in ended.document if "older" in each] == [("affected", True)]
    assert "not the kernel's own list" in cve("show", "CVE-2019-90001", *given, "--kernel", "4.19.5").out
    assert cve("index", *given, "-o", tmp_path / "cve.idx", "--json").document["older"] == 1
    assert cve("show", "CVE-2019-90001", "--records", tmp_path / "cve.idx", "--json").document["older"] is True


def test_findings_are_printed_on_standard_error_and_kept_in_an_index(cve: Callable[..., Ended], tmp_path: Path) -> None:
    source = shutil.copytree(SMALL, tmp_path / "list")
    for number in range(10001, 10004):
        (source / f"cve/published/2030/CVE-2030-{number}.json").write_text("{")
    archive = tmp_path / "list.tar.xz"
    with tarfile.open(archive, "w:xz") as opened:
        opened.add(source, "vulns")
    ended = cve("list", "--records", archive, "--kernel", "6.1.176", "--json")
    assert ended.status == ExitStatus.OK
    states = {one["id"]: one["state"] for one in ended.document}
    assert [states[f"CVE-2030-1000{number}"] for number in (1, 2, 3)] == ["unknown"] * 3, "none is lost"
    assert ended.err.count("[bad-record]") == 3
    index = tmp_path / "cve.idx"
    assert cve("index", "--records", archive, "-o", index, "--json").document["set_aside"] == {"bad-record": 3}
    assert cve("summary", "--records", index, "--kernel", "6.1.176").err.count("[bad-record]") == 3


def test_a_kernel_newer_than_the_records_is_pointed_out(cve: Callable[..., Ended]) -> None:
    assert "nothing newer than 6.1.170" in cve("summary", "--records", SMALL, "--kernel", "6.1.176").err
    assert "no version of 7.9" in cve("summary", "--records", SMALL, "--kernel", "7.9.3").err
    assert "of its branch" not in cve("summary", "--records", SMALL, "--kernel", "6.1.170").err


def test_old_records_say_their_age(cve: Callable[..., Ended], tmp_path: Path) -> None:
    source = shutil.copytree(SMALL, tmp_path / "list")
    for days, told in ((1, False), (29, False), (45, True)):
        for file in source.rglob("*"):
            os.utime(file, (0, time.time() - days * 86400))
        ended = cve("summary", "--records", source, "--kernel", "6.1.170", "--json")
        assert ended.document["records_age_days"] == days
        assert (f"{days} days ago: newer CVEs and fixes are not seen" in ended.err) == told
        assert ended.document["records_date"] in ended.err or not told
    index = tmp_path / "cve.idx"
    made = cve("index", "--records", source, "-o", index, "--json").document
    assert made["records_age_days"] == 45
    listed = cve("list", "--records", index, "--kernel", "6.1.170", "--json")
    assert "45 days ago" in listed.err
    assert {one["records_date"] for one in listed.document} == {made["records_date"]}


def test_a_record_that_contradicts_itself_is_named_and_shown(cve: Callable[..., Ended], tmp_path: Path) -> None:
    name = "CVE-2031-1021"
    commits = ["a" * 40, "b" * 40, "c" * 40]
    (tmp_path / f"{name}.dyad").write_text(
        "".join(f"6.6.20:{commits[0]}:6.6.{end}:{by}\n" for end, by in zip((31, 40), commits[1:], strict=True))
    )
    ranges = [{"version": "6.6.20", "lessThan": "6.6.31", "status": "affected", "versionType": "semver"}]
    cna = {"title": "lamp", "affected": [{"defaultStatus": "unaffected", "versions": ranges}]}
    record = {"cveMetadata": {"cveId": name, "state": "PUBLISHED"}, "containers": {"cna": cna}}
    (tmp_path / f"{name}.json").write_text(json.dumps(record))
    ended = cve("list", "--records", tmp_path, "--kernel", "6.6.35", "--json")
    assert f"1 records contradict themselves: {name};" in ended.err
    assert [one["state"] for one in ended.document] == ["affected"]
    shown = cve("show", name, "--records", tmp_path, "--kernel", "6.6.35")
    assert "From 6.6.31 on and before 6.6.40, its commits say affected and its version ranges do not." in shown.out
    assert "6.6.35 lacks that of 6.6.40" in shown.out


def test_a_version_that_ends_in_zero_is_pointed_out(cve: Callable[..., Ended]) -> None:
    ended = cve("summary", "--records", SMALL, "--kernel", "6.6.0", "--json")
    assert ended.document["kernel"] == "6.6"
    assert "6.6.0 is read as the mainline release 6.6" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (("list", "--kernel", "6.1.176-1"), "cve-kernel-distribution", ExitStatus.USAGE),
        (("list", "--kernel", "6.1.0-50-cloud-amd64"), "cve-kernel-distribution", ExitStatus.USAGE),
        (("list", "--kernel", "banana"), "cve-kernel-version", ExitStatus.USAGE),
        (("index",), "usage", ExitStatus.USAGE),
        (("show", "CVE-2030-99999"), "cve-unknown", ExitStatus.USAGE),
        (("show", "10001"), "cve-id", ExitStatus.USAGE),
        (("list", "--kernel", "6.1.176", "--state", "open"), "usage", ExitStatus.USAGE),
    ],
)
def test_errors_have_a_code_a_sentence_and_advice(
    cve: Callable[..., Ended], arguments: tuple[str, ...], code: str, status: ExitStatus
) -> None:
    ended = cve(*arguments, "--records", SMALL)
    assert ended.status == status
    assert ended.out == ""
    assert f"[{code}]" in ended.err
    assert "hint: " in ended.err


def test_a_source_that_is_missing_is_a_usage_error(cve: Callable[..., Ended], tmp_path: Path) -> None:
    ended = cve("list", "--records", tmp_path / "missing", "--kernel", "6.1.176", "--json")
    assert ended.status == ExitStatus.USAGE
    assert ended.document["problem"]["code"] == "cve-records"
