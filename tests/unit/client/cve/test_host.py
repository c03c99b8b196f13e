# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve` on a host: its own kernel, what it has loaded, and what its livepatches close."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_backend import SOURCES
from host_commands import Ran, enrol, run, run_json, save
from simulated_host import BUILD_ID, SimulatedHost, make_livepatch

from elivepatch.advisory.exposure.changelog import Changelog
from elivepatch.advisory.exposure.sources import KernelSources
from elivepatch.advisory.exposure.verdicts import FixVerdict, FixVerdicts
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.model.errors import ExitStatus
from elivepatch.model.kernel import Digest, Release

SMALL = Path(__file__).parents[2] / "data" / "cve-list"
FIX = Digest(hashlib.sha256(b"the fix").hexdigest())
MINE = replace(
    SOURCES,
    build_id=BUILD_ID,
    sources={"drivers/lamp/wick.c": ("lamp",), "fs/proc/meminfo.c": ("vmlinux",), "drivers/chest/lock.c": ()},
)


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    version = "Linux version 6.1.0-50-cloud-amd64 (x@y) (gcc-12, GNU ld) #1 SMP Debian 6.1.176-1 (2026-07-02)\n"
    found.put("proc/version", version)
    return found


def keep(host: SimulatedHost, sources: KernelSources = MINE) -> CveCache:
    kept = CveCache(host.root / DIRECTORY)
    kept.keep_sources(sources.release, sources.encode())
    return kept


def cve(host: SimulatedHost, *arguments: str | Path) -> Ran:
    return run_json(host, "cve", *arguments, "--records", SMALL)


def files_of(ran: Ran) -> dict[str, list[str]]:
    return {one["id"]: one["files"] for one in ran.document}


def test_without_any_list_of_sources_the_hosts_own_package_version_answers_and_says_so(host: SimulatedHost) -> None:
    ran = cve(host, "list")
    assert ran.status == ExitStatus.OK
    assert "answered for 6.1.176-1 by its version 6.1.176 alone" in ran.err
    assert "built" not in ran.document[0]
    vanilla = cve(host, "list", "--kernel", "6.1.176").document
    assert [one["state"] for one in ran.document] == [one["state"] for one in vanilla]


def test_a_release_without_a_version_is_a_usage_error(host: SimulatedHost) -> None:
    host.put("proc/version", "Linux version 6.1.0-50-cloud-amd64 (x@y) #1 SMP\n")
    assert (cve(host, "list").status, cve(host, "list").code) == (ExitStatus.USAGE, "cve-kernel-distribution")


def test_a_kernel_of_ones_own_is_answered_by_the_version_its_release_begins_with(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host", release="6.1.100-mine")
    assert "answered for 6.1.100-mine by its version 6.1.100" in cve(host, "list").err


def test_the_cached_sources_show_what_is_built_and_the_host_what_is_loaded(host: SimulatedHost) -> None:
    keep(host)
    told = {one["id"]: one for one in cve(host, "list").document}
    lamp = next(one for one in told.values() if "drivers/lamp/wick.c" in one["files"])
    assert lamp["built"]["parents"] == ["lamp"]
    assert lamp["loaded"] == {"certainty": "no", "reason": "lamp is not loaded"}
    assert lamp["closed"] is None
    assert cve(host, "list", "--loaded").document == []


def test_the_kept_list_answers_for_a_release_given_by_name_too(host: SimulatedHost) -> None:
    keep(host)
    assert cve(host, "list", "--kernel", MINE.release).document == cve(host, "list").document
    other = cve(host, "list", "--kernel", "6.1.0-51-cloud-amd64")
    assert (other.status, other.code) == (ExitStatus.USAGE, "cve-kernel-distribution")


def test_a_list_about_another_build_of_the_kernel_is_not_believed(host: SimulatedHost) -> None:
    keep(host, replace(MINE, build_id=SOURCES.build_id))
    ran = cve(host, "list")
    assert "knows another build" in ran.err
    assert "built" not in ran.document[0]


def test_a_file_given_with_sources_answers_on_any_host(host: SimulatedHost, tmp_path: Path) -> None:
    file = tmp_path / "sources.json"
    file.write_bytes(replace(MINE, release=Release("6.1.0-49-cloud-amd64")).encode())
    told = cve(host, "list", "--sources", file).document[0]
    assert "built" in told
    assert "loaded" not in told
    wrong = cve(host, "list", "--sources", file, "--kernel", "5.10.3")
    assert (wrong.status, wrong.code) == (ExitStatus.USAGE, "cve-other-kernel")
    file.write_text("{}")
    assert cve(host, "list", "--sources", file).code == "kernel-sources"
    assert cve(host, "list", "--sources", tmp_path / "missing").code == "kernel-sources"


def test_the_changelog_of_the_kept_list_goes_before_the_version(host: SimulatedHost) -> None:
    changelog = Changelog(
        version="6.1.176-1", closed={"CVE-2030-10003": "6.1.170-1"}, elsewhere={}, own={}, reverted={}
    )
    before = {one["id"]: one["state"] for one in cve(host, "list").document}
    keep(host, replace(MINE, changelog=changelog))
    after = {one["id"]: one["state"] for one in cve(host, "list").document}
    assert (before["CVE-2030-10003"], after["CVE-2030-10003"]) == ("affected", "fixed")


def live(host: SimulatedHost, function: str = "light_lamp") -> None:
    made = make_livepatch("elp_a", functions=[function], series=[FIX])
    assert run(host, "load", save(made, host.root / "files")).status == 0


def remember(host: SimulatedHost, name: str, *functions: str) -> None:
    verdict = FixVerdict(patches=(FIX,), builder=MINE.builder, asked=True, functions=functions)
    keep(host).keep_verdicts(FixVerdicts(release=MINE.release, by_cve={name: verdict}))


def test_a_cve_is_closed_by_the_function_of_the_livepatch_that_carries_its_fix(host: SimulatedHost) -> None:
    remember(host, "CVE-2030-10003", "vmlinux:light_lamp", "vmlinux:other")
    assert cve(host, "list", "--closed").document == []
    live(host)
    (told,) = cve(host, "list", "--closed").document
    assert told["id"] == "CVE-2030-10003"
    assert told["closed"] == {"by": "elp_a", "functions": ["vmlinux:light_lamp"]}
    assert "elp_a: vmlinux:light_lamp" in run(host, "cve", "list", "--closed", "--records", SMALL).out
    assert run(host, "disable", "elp_a").status == 0
    assert cve(host, "list", "--closed").document == []


def test_a_livepatch_without_the_fixs_functions_closes_nothing(host: SimulatedHost) -> None:
    remember(host, "CVE-2030-10003", "vmlinux:light_lamp")
    live(host, "another_function")
    assert cve(host, "list", "--closed").document == []


def test_summary_prints_the_funnel(host: SimulatedHost) -> None:
    remember(host, "CVE-2030-10003", "vmlinux:light_lamp")
    live(host)
    stages = cve(host, "summary").document["funnel"]
    assert stages["affected"] == stages["built"]["yes"] + stages["built"]["no"] + stages["built"]["unknown"]
    assert stages["closed"] == 1
    text = run(host, "cve", "summary", "--records", SMALL).out
    for word in ("affected, or perhaps", "built", "loaded", "closed by livepatches", "open"):
        assert word in text


def test_show_prints_every_stage(host: SimulatedHost) -> None:
    remember(host, "CVE-2030-10003", "vmlinux:light_lamp")
    live(host)
    text = run(host, "cve", "show", "CVE-2030-10003", "--records", SMALL).out
    for line in ("built ", "loaded ", "closed    by elp_a: vmlinux:light_lamp", "fix       convertible"):
        assert line in text


def test_openvex_is_printed_for_scanners(host: SimulatedHost) -> None:
    remember(host, "CVE-2030-10003", "vmlinux:light_lamp")
    live(host)
    made = json.loads(run(host, "cve", "list", "--openvex", "--records", SMALL).out)
    by_name = {one["vulnerability"]["name"]: one for one in made["statements"]}
    assert by_name["CVE-2030-10003"]["justification"] == "inline_mitigations_already_exist"
    none = run_json(host, "cve", "list", "--openvex", "--records", SMALL, "--severity", "critical", "--closed")
    assert (none.status, none.code) == (ExitStatus.USAGE, "cve-openvex")


def test_filters_narrow_the_list(host: SimulatedHost) -> None:
    keep(host)
    everything = cve(host, "list").document
    for option, wanted in (
        (("--built",), lambda one: one["built"]["certainty"] == "yes"),
        (("--built", "no"), lambda one: one["built"]["certainty"] == "no"),
        (("--built", "unknown"), lambda one: one["built"]["certainty"] == "unknown"),
        (("--open",), lambda one: one["open"]),
        (("--severity", "high"), lambda one: one["severity"] in {"high", "critical"}),
        (("--closed", "no"), lambda one: one["closed"] is None),
    ):
        assert cve(host, "list", *option).document == [one for one in everything if wanted(one)], option
    kev = host.root / "kev.json"
    kev.write_text('{"vulnerabilities": [{"cveID": "CVE-2030-10003", "dateAdded": "2030-05-01"}]}')
    assert [one["id"] for one in cve(host, "list", "--kev", kev, "--exploited").document] == ["CVE-2030-10003"]


@pytest.mark.parametrize("option", ["--built", "--open", "--loaded", "--closed", "--exploited"])
def test_a_filter_that_nothing_can_answer_is_refused(host: SimulatedHost, option: str) -> None:
    ran = cve(host, "list", "--kernel", "6.1.176", option)
    assert (ran.status, ran.code) == (ExitStatus.USAGE, "cve-filter")


def test_without_records_anywhere_the_advice_says_how_to_get_them(host: SimulatedHost) -> None:
    ran = run_json(host, "cve", "list")
    assert (ran.status, ran.code) == (ExitStatus.USAGE, "cve-records-missing")


def test_kept_records_answer_without_any_option(host: SimulatedHost) -> None:
    keep(host)
    kept = host.root / DIRECTORY / "records.idx"
    assert run(host, "cve", "index", "--records", SMALL, "-o", kept).status == 0
    assert len(run_json(host, "cve", "list").document) == 8


def test_damaged_verdicts_are_named_and_not_guessed(host: SimulatedHost) -> None:
    keep(host)
    file = host.root / DIRECTORY / "verdicts" / f"{MINE.release}.json"
    file.parent.mkdir()
    for content in ("{", "[]", '{"schema": 9, "release": "6.1", "verdicts": {}}'):
        file.write_text(content)
        ran = cve(host, "list")
        assert (ran.status, ran.code) == (ExitStatus.USAGE, "cve-verdicts")
