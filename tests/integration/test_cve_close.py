# SPDX-License-Identifier: GPL-2.0-or-later
"""From a policy to closed CVEs: a real client, a server on loopback that decides by words, a simulated kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cve_commands import choices, cve, reasons, states
from cve_list import CveList
from cve_server import CveServer
from git_repository import Repository
from host_commands import run, run_json
from simulated_host import RELEASE, SimulatedHost

from elivepatch import process
from elivepatch.advisory.exposure.verdicts import FixOutcome
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.model.codes import problem
from elivepatch.model.errors import ExitStatus, Kind, Problem
from elivepatch.model.series import SourcePatch

pytestmark = pytest.mark.integration


@pytest.fixture
def cves(tmp_path: Path) -> CveList:
    return CveList(tmp_path / "list")


def test_the_overlays_of_a_host_give_fixes_that_say_what_their_trial_must_see(
    host: SimulatedHost, cves: CveList, server: CveServer, tmp_path: Path
) -> None:
    name = cves.add(1)
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"]).check("making a key")
    (tmp_path / "signers").write_text(f"keeper {(tmp_path / 'key.pub').read_text()}")
    config = {"gpg.format": "ssh", "user.signingkey": str(tmp_path / "key")}
    overlay = Repository(tmp_path / "overlay", config=config)
    text = (
        f"overlay: 1\nname: lamps\npatches:\n  - id: light\n    files: [light.patch]\n    cves: [{name}]\n"
        '    kernels: ["6.1.*"]\n    expect: ["/proc/lamp =~ light", light.expect.sh]\n'
        "    licence: GPL-2.0-only\n    author: A\n"
    )
    files = {"overlay.yaml": text, "light.patch": "function fix_1\n+light\n", "light.expect.sh": "exit 1\n"}
    overlay.commit("Begin", files, "-S")
    url = f"file://{overlay.top}"
    assert run(host, "overlay", "add", "lamps", url, "--signers", tmp_path / "signers").status == 0
    cves.policy.write_text(f'[records]\nsource = "{cves.records}"\n[[fixes]]\noverlays = true\n')
    ran = cve(host, cves, "close")
    assert ran.document["closed_now"] == [name], ran.err
    predicate = {"name": "light.expect.sh", "source": "exit 1\n"}
    assert server.requests[-1]["expectations"] == [
        {"command": "/proc/lamp", "pattern": "light"},
        {"command": "light.expect.sh", "pattern": "", "predicate": predicate},
    ]
    assert states(host, cves)["closed"] == 1


class TestClose:
    def test_everything_convertible_is_closed_by_one_livepatch_and_the_rest_reported(
        self, host: SimulatedHost, cves: CveList
    ) -> None:
        good = [cves.add(number, "ok") for number in (1, 2, 3)]
        refused = cves.add(4, "refused")
        ran = cve(host, cves, "close")
        assert ran.status == 0
        assert ran.document["closed_now"] == good
        assert len(host.live) == 1
        assert [patch.name for patch in host.store.record().set.series] == [f"{name}.patch" for name in good]
        stages = states(host, cves)
        assert (stages["closed"], stages["open"]) == (3, 1)
        assert stages["fixes"]["needs-reboot"] == 1
        listed = run_json(host, "cve", "list", "--closed", "--records", cves.records).document
        assert [one["closed"] for one in listed] == [
            {"by": host.live[0], "functions": [f"vmlinux:fix_{number}"]} for number in (1, 2, 3)
        ]
        assert choices(ran)[good[0]] == "closed"
        assert choices(ran)[refused] == "needs-reboot"

    def test_a_second_run_changes_nothing_and_asks_for_nothing(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        cves.add(1, "ok")
        cves.add(2, "refused")
        cve(host, cves, "close")
        asked, record = len(server.asked), host.store.record()
        ran = cve(host, cves, "close")
        assert (ran.status, ran.document["closed_now"], ran.document["livepatch"]) == (0, [], None)
        assert (len(server.asked), host.store.record(), host.loads) == (asked, record, 1)
        assert "Nothing to do" in run(host, "cve", "close", "--policy", cves.policy).out

    def test_a_source_patch_whose_text_was_lost_is_asked_for_again(self, host: SimulatedHost, cves: CveList) -> None:
        cves.add(1, "ok")
        cve(host, cves, "close")
        host.store.path_of(host.store.record().set.series[0].digest, "patch").unlink()
        cves.add(2, "ok")
        ran = cve(host, cves, "close")
        assert (ran.status, ran.code) == (6, "source-gone")

    def test_what_comes_later_is_added_and_everything_live_carried_along(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        first = cves.add(2, "ok", fixed=180)
        cve(host, cves, "close")
        second = cves.add(1, "ok", fixed=178)
        assert cve(host, cves, "close").document["closed_now"] == [second]
        assert server.asked[-1] == ("trial", [f"{first}.patch", f"{second}.patch"])
        assert len(host.live) == 1
        assert states(host, cves)["closed"] == 2

    @pytest.mark.parametrize("required", ["none", "partly", "passed"])
    def test_a_fix_that_no_trial_can_try_is_left_out_only_where_the_host_asks_for_more(
        self, host: SimulatedHost, cves: CveList, required: str
    ) -> None:
        host.put("etc/elivepatch/client.toml", (host.root / "etc/elivepatch/client.toml").read_text()
                 + f'require_trial = "{required}"\n')  # fmt: skip
        good, untried = cves.add(1, "ok", fixed=177), cves.add(2, "no-hardware", fixed=178)
        ran = cve(host, cves, "close")
        assert ran.document["closed_now"] == ([good] if required == "passed" else [good, untried])
        assert ran.document["livepatch"]["trial_outcome"] == ("passed" if required == "passed" else "partly")
        assert [one["code"] for one in ran.document["left_out"]] == ["trial-required"] * (required == "passed")

    @pytest.mark.parametrize("form", ["clashes", "crashes-with"])
    def test_the_culprit_is_found_left_out_and_the_rest_goes_on(
        self, host: SimulatedHost, cves: CveList, server: CveServer, form: str
    ) -> None:
        names = [cves.add(number, "ok", fixed=180 + number) for number in range(1, 9)]
        culprits = [cves.add(10 + number, f"{form} {names[number]}", fixed=185 + number) for number in (1, 3)]
        ran = cve(host, cves, "close")
        assert ran.status == 0
        assert sorted(ran.document["closed_now"]) == names
        assert sorted(one["id"] for one in ran.document["left_out"]) == culprits
        found = choices(ran)
        assert {found[name] for name in culprits} == {"needs-reboot"}
        assert "does not go with the others" in reasons(ran)[culprits[0]]
        assert server.count("trial") <= 19

    def test_a_fix_whose_predicate_gives_no_answer_keeps_no_other_fix_out(
        self, host: SimulatedHost, cves: CveList
    ) -> None:
        good, silent, last = cves.add(1, "ok"), cves.add(2, "silent"), cves.add(3, "ok")
        ran = cve(host, cves, "close")
        assert ran.status == 0
        assert sorted(ran.document["closed_now"]) == [good, last]
        assert [(one["id"], one["code"]) for one in ran.document["left_out"]] == [(silent, "trial-predicate-broken")]
        again = cve(host, cves, "close")
        assert [one["id"] for one in again.document["left_out"]] == [silent], "tried again: it may have been repaired"

    @pytest.mark.parametrize("failures", [1, 2])
    def test_a_trial_that_fails_by_chance_blames_no_fix(
        self, host: SimulatedHost, cves: CveList, server: CveServer, monkeypatch: pytest.MonkeyPatch, failures: int
    ) -> None:
        names = [cves.add(number, "ok") for number in (1, 2, 3)]
        judge, trials = server._judge, 0

        def flaky(patches: list[SourcePatch], form: str) -> Problem | None:
            nonlocal trials
            trials += form == "trial"
            if form == "trial" and trials <= failures:
                return Problem(code="trial-load", kind=Kind.FAILURE, message="The kernel was slow.", advice="-")
            return judge(patches, form)

        monkeypatch.setattr(server, "_judge", flaky)
        ran = cve(host, cves, "close")
        assert (ran.status, ran.document["closed_now"], ran.document["left_out"]) == (0, names, [])
        verdicts = CveCache(host.root / DIRECTORY).verdicts(RELEASE).by_cve
        assert {one.outcome for one in verdicts.values()} == {FixOutcome.CONVERTIBLE}

    def test_a_trial_that_passes_prefixes_and_fails_the_whole_again_and_again_is_the_servers_fault(
        self, host: SimulatedHost, cves: CveList, server: CveServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in (1, 2):
            cves.add(number, "ok")
        judge, whole = server._judge, 0

        def flaky(patches: list[SourcePatch], form: str) -> Problem | None:
            nonlocal whole
            whole += form == "trial" and len(patches) == 2
            if form == "trial" and len(patches) == 2 and whole % 3:
                return Problem(code="trial-load", kind=Kind.FAILURE, message="The kernel was slow.", advice="-")
            return judge(patches, form)

        monkeypatch.setattr(server, "_judge", flaky)
        ran = cve(host, cves, "close")
        assert (ran.status, ran.code, host.loads) == (ExitStatus.SERVICE, "trial-unsteady", 0)

    def test_a_fix_whose_trial_failed_is_tried_again_after_a_week(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        first = cves.add(1, "ok", fixed=178)
        culprit = cves.add(2, f"crashes-with {first}", fixed=179)
        assert choices(cve(host, cves, "close"))[culprit] == "needs-reboot"
        asked, tried = len(server.asked), server.count("trial")
        assert choices(cve(host, cves, "close"))[culprit] == "needs-reboot"
        assert len(server.asked) == asked
        cache = CveCache(host.root / DIRECTORY)
        verdicts = cache.verdicts(RELEASE)
        verdicts.by_cve[culprit] = replace(verdicts.by_cve[culprit], at="2026-01-01T00:00:00+00:00")
        cache.keep_verdicts(verdicts)
        cve(host, cves, "close")
        assert server.count("trial") > tried

    def test_a_request_that_is_too_large_is_no_verdict_on_a_fix(
        self, host: SimulatedHost, cves: CveList, server: CveServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [cves.add(number, "ok") for number in (1, 2, 3)]
        judge = server._judge

        def small(patches: list[SourcePatch], form: str) -> Problem | None:
            return problem("patch-too-large", "The series is too large.") if len(patches) > 2 else judge(patches, form)

        monkeypatch.setattr(server, "_judge", small)
        ran = cve(host, cves, "close")
        assert (ran.code, host.loads) == ("patch-too-large", 0)
        verdicts = CveCache(host.root / DIRECTORY).verdicts(RELEASE).by_cve
        assert [verdicts[name].outcome for name in names] == [FixOutcome.CONVERTIBLE] * 3
        monkeypatch.undo()
        monkeypatch.setattr("elivepatch.advisory.plan.PATCHES_LIMIT", 2)
        ran = cve(host, cves, "close")
        assert ran.document["closed_now"] == names[:2], "the client counts before it asks"
        assert reasons(ran)[names[2]] == "with it, the series would exceed the 2 source patches of one request"

    def test_the_limit_holds_for_the_livepatch_that_is_loaded_too(
        self, host: SimulatedHost, cves: CveList, server: CveServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cves.add(1, "ok")
        build = server.build

        def never_done(body: dict[str, Any]) -> str:
            made = build(body)
            server.mood = "drops" if server.count("trial") == 2 else server.mood
            return made

        monkeypatch.setattr(server, "build", never_done)
        ran = cve(host, cves, "close", "--limit", "2")
        assert server.count("trial") == 2, "the plan's own, then that of the load"
        assert (ran.status, ran.code, host.loads) == (ExitStatus.SERVICE, "limit-reached", 0)
        assert "within 2 s" in ran.document["problem"]["message"]

    def test_a_culprit_is_not_tried_again_while_the_others_are_the_same(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        first = cves.add(1, "ok", fixed=178)
        culprit = cves.add(2, f"clashes {first}", fixed=179)
        cve(host, cves, "close")
        asked = len(server.asked)
        ran = cve(host, cves, "close")
        assert choices(ran)[culprit] == "needs-reboot"
        assert len(server.asked) == asked
        cves.add(3, "ok")
        assert cve(host, cves, "close").document["closed_now"] == ["CVE-2030-30003"]
        assert states(host, cves)["closed"] == 2

    def test_a_fix_that_another_one_brings_along_is_closed_with_it(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        first = cves.add(1, "ok", fixed=178)
        same = cves.add(2, f"same-as {first}", "function fix_1", fixed=179)
        ran = cve(host, cves, "close")
        assert ran.document["closed_now"] == [first]
        assert (choices(ran)[same], reasons(ran)[same]) == ("nothing-to-do", "another fix brings the same change")
        assert (states(host, cves)["closed"], states(host, cves)["open"]) == (2, 0)
        asked = len(server.asked)
        assert choices(cve(host, cves, "close")) == {first: "closed", same: "closed"}
        assert len(server.asked) == asked

    def test_what_was_applied_by_hand_counts_where_it_is_the_fix(self, host: SimulatedHost, cves: CveList) -> None:
        name = cves.add(1, "ok")
        assert run(host, "apply", cves.fixes / f"{name}.patch").status == 0
        ran = cve(host, cves, "close")
        assert (ran.document["closed_now"], choices(ran)[name]) == ([], "closed")
        assert states(host, cves)["closed"] == 1

    def test_a_livepatch_for_another_host_is_saved_with_its_proof(
        self, host: SimulatedHost, cves: CveList, tmp_path: Path
    ) -> None:
        cves.add(1, "ok")
        out = tmp_path / "out.ko"
        ran = cve(host, cves, "close", "--kernel", RELEASE, "-o", out)
        assert ran.status == 0
        assert host.loads == 0
        assert set(ran.document["files"]) == {"module", "proof", "report"}
        assert run(host, "load", out).status == 0
        assert states(host, cves)["closed"] == 1

    def test_another_hosts_livepatch_is_not_loaded_here(self, host: SimulatedHost, cves: CveList) -> None:
        ran = cve(host, cves, "close", "--kernel", RELEASE)
        assert (ran.status, ran.code) == (2, "usage")

    def test_what_is_live_and_cannot_be_built_any_more_stops_the_run_and_changes_nothing(
        self, host: SimulatedHost, cves: CveList, server: CveServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cves.add(1, "ok")
        cve(host, cves, "close")
        live = host.live
        cves.add(2, "ok")
        judge = server._judge

        def refuse(patches: Any, form: str) -> Any:
            first = judge(patches, form)
            return judge([replace(patches[0], content=b"refused")], form) if "30001" in patches[0].name else first

        monkeypatch.setattr(server, "_judge", refuse, raising=False)
        ran = cve(host, cves, "close")
        assert (ran.status, ran.code, host.live) == (6, "carried-fails", live)

    @pytest.mark.parametrize("mood", ["unsigned", "stranger", "swapped"])
    def test_what_is_not_signed_as_it_must_be_is_not_loaded(
        self, host: SimulatedHost, cves: CveList, server: CveServer, mood: str
    ) -> None:
        cves.add(1, "ok")
        server.mood = mood
        ran = cve(host, cves, "close")
        assert ran.status == 5
        assert host.loads == 0
        assert states(host, cves)["closed"] == 0

    def test_damaged_verdicts_stop_a_plan_with_advice(self, host: SimulatedHost, cves: CveList) -> None:
        cves.add(1, "ok")
        cve(host, cves, "plan")
        file = CveCache(host.root / DIRECTORY)._verdicts_file(RELEASE)
        file.write_text("{")
        assert cve(host, cves, "plan").code == "cve-verdicts"
