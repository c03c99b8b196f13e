# SPDX-License-Identifier: GPL-2.0-or-later
"""From CVEs to one livepatch that was tried on the very kernel: a real server, real modules, a simulated host."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cve_list import CveList
from host_commands import enrol, run_json
from module_host import ModuleHost
from real_server import Server

from elivepatch.build.base.store import Base

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
OURS = ROOT / "demo/patches"
SHARED = ROOT.parent / "shared/data"

INIT_ONLY = Path(__file__).parent / "data/init-only.patch"


@pytest.fixture
def host(tmp_path: Path, base_6_1: Base, server: Server) -> ModuleHost:
    # Proofs of a real server have the time of this machine.
    found = ModuleHost(
        tmp_path / "host", release=base_6_1.release, build_id=base_6_1.build_id, started=datetime.now(UTC)
    )
    found.put("etc/elivepatch/client.toml", f'url = "{server.url}"\ntoken = "{server.token}"\n')
    enrol(found, server.url, server.get("/v1/key").json()["public_key"])
    return found


@pytest.mark.extended
def test_what_can_be_a_livepatch_is_closed_and_what_cannot_is_shown_as_needing_a_reboot(
    host: ModuleHost, tmp_path: Path
) -> None:
    cves = CveList(tmp_path / "list")
    meminfo = cves.add(1, file="fs/proc/meminfo.c")
    vlan = cves.add(2, file="net/8021q/vlanproc.c")
    init = cves.add(3, file="fs/proc/meminfo.c", fixed=181)
    absent = cves.add(4, file="drivers/net/usb/kalmia.c")
    (cves.fixes / f"{meminfo}.patch").write_bytes((OURS / "vmlinux-meminfo.patch").read_bytes())
    (cves.fixes / f"{vlan}.patch").write_bytes((OURS / "module-8021q.patch").read_bytes())
    (cves.fixes / f"{init}.patch").write_bytes(INIT_ONLY.read_bytes())
    ran = run_json(host, "cve", "close", "--policy", cves.policy)
    assert ran.status == 0, ran.err
    decisions = {one["id"]: (one["choice"], one["reason"]) for one in ran.document["decisions"]}
    assert {name: choice for name, (choice, _) in decisions.items()} == {
        meminfo: "closed",
        vlan: "closed",
        init: "needs-reboot",
    }
    assert "[init-only]" in decisions[init][1]
    assert ran.document["livepatch"]["trial"]
    assert len(host.live) == 1
    listed = run_json(host, "cve", "list", "--records", cves.records).document
    closed = {one["id"]: one["closed"] for one in listed}
    assert closed[meminfo]["functions"] == ["vmlinux:meminfo_proc_show"]
    assert closed[vlan]["functions"] == ["8021q:vlan_seq_show"]
    assert closed[init] is closed[absent] is None
    stages = run_json(host, "cve", "summary", "--records", cves.records).document["funnel"]
    assert (stages["closed"], stages["open"], stages["built"]["no"]) == (2, 1, 1)
    again = run_json(host, "cve", "close", "--policy", cves.policy)
    assert (again.document["closed_now"], host.loads) == ([], 1)


@pytest.mark.skipif(not (SHARED / "vulns-sample.tar.xz").exists(), reason="the collection of real fixes is not there")
@pytest.mark.extended
def test_everything_convertible_of_the_real_fixes_ends_in_one_livepatch(host: ModuleHost, tmp_path: Path) -> None:
    index, policy = tmp_path / "records.idx", tmp_path / "policy.toml"
    fixes = SHARED / "cve-fixes-6.1.176"
    assert run_json(host, "cve", "index", "--records", SHARED / "vulns-sample.tar.xz", "-o", index).status == 0
    policy.write_text(f'[records]\nsource = "{index}"\n[[fixes]]\ndirectory = "{fixes}"\n')
    planned = run_json(host, "cve", "plan", "--policy", policy)
    assert planned.status == 0, planned.err
    before = planned.document["funnel"]
    convertible = {one["id"] for one in planned.document["decisions"] if one["choice"] == "chosen"}
    ran = run_json(host, "cve", "close", "--policy", policy)
    assert ran.status == 0, ran.err
    after = run_json(host, "cve", "summary", "--records", index).document["funnel"]
    _tell(before, after, ran.document)
    assert len(convertible) >= 15
    assert set(ran.document["closed_now"]) == convertible
    assert ran.document["left_out"] == []
    assert ran.document["livepatch"]["trial"]
    assert len(host.live) == 1
    assert after["closed"] == len(convertible)
    assert after["open"] == before["open"] - len(convertible)
    with_fix = {path.stem for path in fixes.glob("CVE-*.patch")}
    assert {one["id"] for one in ran.document["decisions"] if one["choice"] == "closed"} <= with_fix


def _tell(before: dict[str, Any], after: dict[str, Any], ran: dict[str, Any]) -> None:
    built, fixes = before["built"], before["fixes"]
    sys.stderr.write(
        f"\n{ran['release']}: {before['affected']} affected by version and changelog, "
        f"{built['yes'] + built['unknown']} built ({built['yes']} for certain), {fixes['convertible']} converted, "
        f"{fixes['needs-reboot']} need a reboot; {after['closed']} closed by {ran['livepatch']['functions']} functions "
        f"of {ran['livepatch']['name']}, {after['open']} open\n"
    )
