# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve closed`: its exit status is the answer, and only 0 means closed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_backend import SOURCES
from host_commands import Ran, enrol, run, run_json, save
from simulated_host import BUILD_ID, SimulatedHost, make_livepatch

from elivepatch.advisory.exposure.verdicts import FixVerdict, FixVerdicts
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.model.kernel import Digest

FIX = Digest(hashlib.sha256(b"the fix").hexdigest())
MINE = replace(SOURCES, build_id=BUILD_ID, sources={"lamp.c": ("vmlinux",), "off.c": ()})
NAME = "CVE-2030-10001"


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    version = "Linux version 6.1.0-50-cloud-amd64 (x@y) (gcc-12, GNU ld) #1 SMP Debian 6.1.176-1 (2026-07-02)\n"
    found.put("proc/version", version)
    (tmp_path / "list").mkdir()
    return found


def keep(host: SimulatedHost, verdict: FixVerdict | None = None) -> None:
    cache = CveCache(host.root / DIRECTORY)
    cache.keep_sources(MINE.release, MINE.encode())
    cache.keep_verdicts(FixVerdicts(release=MINE.release, by_cve={} if verdict is None else {NAME: verdict}))


def record(host: SimulatedHost, *ranges: str, file: str = "lamp.c") -> None:
    top = host.root.parent / "list"
    cna = {"title": "lamp", "affected": [{"programFiles": [file]}]}
    text = json.dumps({"cveMetadata": {"cveId": NAME, "state": "PUBLISHED"}, "containers": {"cna": cna}})
    (top / f"{NAME}.json").write_text(text)
    (top / f"{NAME}.dyad").write_text("".join(f"{one}\n" for one in ranges))


def ask(host: SimulatedHost, name: str = NAME) -> Ran:
    return run_json(host, "cve", "closed", name, "--records", host.root.parent / "list")


A, B = "a" * 40, "b" * 40


@pytest.mark.parametrize("known", [True, False], ids=["with sources", "by its version alone"])
@pytest.mark.parametrize(
    ("ranges", "status", "by", "says"),
    [
        ([f"5.4:{A}:6.1.120:{B}"], 0, "release", "fixed in 6.1.120"),
        ([f"6.3:{A}:6.8:{B}"], 0, "not-affected", "which 6.1.176 does not contain"),
        ([f"5.4:{A}:6.1.180:{B}"], 1, "open", "fixed in 6.1.180"),
        ([f"5.4:{A}:6.1.120:{B}", f"5.4:{A}:6.1.180:{'c' * 40}"], 1, "open", "6.1.176 lacks that of 6.1.180"),
        ([f"5.4:{A}:0:0"], 1, "open", "no fix is listed"),
        (["garbage"], 4, "unknown", "fields"),
    ],
)
def test_the_status_is_the_answer_and_the_evidence_is_named(
    host: SimulatedHost, known: bool, ranges: list[str], status: int, by: str, says: str
) -> None:
    if known:
        keep(host)
    record(host, *ranges)
    ran = ask(host)
    assert (ran.status, ran.document["by"]) == (status, by)
    assert ran.document["closed"] is {0: True, 1: False, 4: None}[status]
    assert says in ran.document["reason"]
    for_people = run(host, "cve", "closed", NAME, "--records", host.root.parent / "list")
    assert for_people.status == status
    assert says in for_people.out + for_people.err
    assert ("is closed on" in for_people.out) == (status == 0)


def test_code_that_this_configuration_does_not_build_counts_as_closed(host: SimulatedHost) -> None:
    keep(host)
    record(host, f"5.4:{A}:6.1.180:{B}", file="off.c")
    assert (ask(host).status, ask(host).document["by"]) == (0, "not-built")


def test_a_livepatch_closes_it_while_it_is_in_force(host: SimulatedHost) -> None:
    verdict = FixVerdict(patches=(FIX,), builder=MINE.builder, asked=True, functions=("vmlinux:light_lamp",))
    keep(host, verdict)
    record(host, f"5.4:{A}:6.1.180:{B}")
    assert ask(host).status == 1
    made = make_livepatch("elp_a", functions=["light_lamp"], series=[FIX])
    assert run(host, "load", save(made, host.root / "files")).status == 0
    ran = ask(host)
    assert (ran.status, ran.document["by"]) == (0, "livepatch")
    assert "elp_a: vmlinux:light_lamp" in ran.document["reason"]
    assert run(host, "disable", "elp_a").status == 0
    assert ask(host).status == 1


@pytest.mark.parametrize(("fixed", "status"), [("6.1.180", 1), ("6.1.120", 4)])
def test_a_record_whose_json_names_another_commit_is_closed_by_nothing(
    host: SimulatedHost, fixed: str, status: int
) -> None:
    keep(host, FixVerdict(patches=(FIX,), builder=MINE.builder, asked=True, functions=("vmlinux:light_lamp",)))
    record(host, f"5.4:{A}:{fixed}:{B}")
    file = host.root.parent / "list" / f"{NAME}.json"
    written = json.loads(file.read_text())
    git = [{"version": A, "lessThan": fix, "status": "affected", "versionType": "git"} for fix in (B, "c" * 40)]
    written["containers"]["cna"]["affected"][0]["versions"] = git
    file.write_text(json.dumps(written))
    made = make_livepatch("elp_a", functions=["light_lamp"], series=[FIX])
    assert run(host, "load", save(made, host.root / "files")).status == 0
    ran = ask(host)
    assert ran.status == status
    assert "Its JSON names cccccccccccc, which its ranges lack." in ran.document["reason"]


def test_without_the_record_of_this_host_it_is_not_known_what_is_closed(host: SimulatedHost) -> None:
    keep(host)
    record(host, f"5.4:{A}:6.1.180:{B}")
    made = make_livepatch("elp_a", functions=["light_lamp"], series=[FIX])
    assert run(host, "load", save(made, host.root / "files")).status == 0
    for file in (host.root / "var/lib/elivepatch").glob("kernels/*/state.json"):
        file.write_text("{")
    ran = ask(host)
    assert (ran.status, ran.document["by"]) == (4, "unknown")
    assert "not known which livepatches are in force" in ran.document["reason"]


def test_a_cve_that_the_records_do_not_have_is_unknown_and_never_closed(host: SimulatedHost) -> None:
    record(host, f"5.4:{A}:6.1.120:{B}")
    ran = ask(host, "CVE-2031-99999")
    assert (ran.status, ran.code) == (2, "cve-unknown")


def test_what_is_no_id_of_a_cve_is_refused(host: SimulatedHost) -> None:
    record(host, f"5.4:{A}:6.1.120:{B}")
    assert (ask(host, "2030-10001").status, ask(host, "2030-10001").code) == (2, "cve-id")


def test_a_withdrawn_cve_is_not_called_closed(host: SimulatedHost) -> None:
    record(host, f"5.4:{A}:6.1.120:{B}")
    rejected = host.root.parent / "list/rejected"
    rejected.mkdir()
    (host.root.parent / "list" / f"{NAME}.json").rename(rejected / f"{NAME}.json")
    assert (ask(host).status, ask(host).document["by"]) == (4, "rejected")


def test_without_records_there_is_no_answer(host: SimulatedHost) -> None:
    ran = run_json(host, "cve", "closed", NAME)
    assert (ran.status, ran.code) == (2, "cve-records-missing")
