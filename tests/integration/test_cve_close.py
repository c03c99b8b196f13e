# SPDX-License-Identifier: GPL-2.0-or-later
"""From a policy to closed CVEs: a real client, a server on loopback that decides by words, a simulated kernel."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cve_list import CveList
from cve_server import MINE, CveServer
from git_repository import Repository
from host_commands import Ran, run, run_json
from simulated_host import RELEASE, SimulatedHost

from elivepatch import process
from elivepatch.advisory.exposure.verdicts import FixOutcome
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.model.codes import problem
from elivepatch.model.errors import ExitStatus, Kind, Problem
from elivepatch.model.kernel import BuildId, Digest
from elivepatch.model.series import SourcePatch

pytestmark = pytest.mark.integration


@pytest.fixture
def cves(tmp_path: Path) -> CveList:
    return CveList(tmp_path / "list")


def cve(host: SimulatedHost, cves: CveList, command: str, *options: str | Path) -> Ran:
    return run_json(host, "cve", command, "--policy", cves.policy, *options)


def choices(ran: Ran) -> dict[str, str]:
    assert ran.status == 0, ran.err
    return {one["id"]: one["choice"] for one in ran.document["decisions"]}


def reasons(ran: Ran) -> dict[str, str]:
    return {one["id"]: one["reason"] for one in ran.document["decisions"]}


def states(host: SimulatedHost, cves: CveList) -> dict[str, Any]:
    found: dict[str, Any] = run_json(host, "cve", "summary", "--records", cves.records).document["funnel"]
    return found


class TestPlan:
    def test_every_cve_that_concerns_the_kernel_has_a_decision_with_its_reason(
        self, host: SimulatedHost, cves: CveList
    ) -> None:
        good = cves.add(1, "ok")
        refused = cves.add(2, "refused")
        cves.add(3, "ok", file="drivers/lamp/off.c")
        without = cves.add(4)
        done = cves.add(5, "applied")
        same = cves.add(6, "unchanged")
        broken = cves.add(7, "confuses")
        ran = cve(host, cves, "plan")
        assert choices(ran) == {
            good: "chosen",
            refused: "needs-reboot",
            without: "no-fix",
            done: "nothing-to-do",
            same: "nothing-to-do",
            broken: "unanswered",
        }
        assert "[data-layout]" in reasons(ran)[refused]
        assert host.loads == 0

    def test_nothing_is_asked_twice_until_kernel_patch_or_builder_change(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        cves.add(1, "ok")
        refused = cves.add(2, "refused")
        cve(host, cves, "plan")
        cve(host, cves, "plan")
        assert server.count("check") == 2
        cves.add(2, "ok")
        assert choices(cve(host, cves, "plan"))[refused] == "chosen"
        assert server.count("check") == 3
        server.sources = replace(MINE, builder=Digest("9" * 64))
        cve(host, cves, "plan")
        assert server.count("check") == 5

    def test_the_log_of_answers_is_folded_in_by_the_next_run(self, host: SimulatedHost, cves: CveList) -> None:
        cves.add(1, "ok")
        cve(host, cves, "plan")
        stored = CveCache(host.root / DIRECTORY).directory / "verdicts"
        assert sorted(file.suffix for file in stored.iterdir()) == [".json", ".log"]
        known = CveCache(host.root / DIRECTORY).verdicts(RELEASE).by_cve
        cve(host, cves, "plan")
        assert [file.suffix for file in stored.iterdir()] == [".json"]
        assert CveCache(host.root / DIRECTORY).verdicts(RELEASE).by_cve == known

    def test_what_the_server_could_not_say_is_asked_again(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        cves.add(1, "confuses")
        cve(host, cves, "plan")
        cve(host, cves, "plan")
        assert server.count("check") == 2

    def test_a_fix_that_lacks_context_is_asked_again_after_those_to_the_same_file(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        first = cves.add(1, "ok", fixed=178)
        second = cves.add(2, f"needs {first}", file="drivers/lamp/part1.c", fixed=179)
        other = cves.add(3, f"needs {first}", fixed=179)
        ran = cve(host, cves, "plan")
        assert choices(ran) == {first: "chosen", second: "chosen", other: "needs-reboot"}
        assert server.asked[-1] == ("check", [f"{first}.patch", f"{second}.patch"])
        assert choices(cve(host, cves, "plan")) == choices(ran)
        assert server.count("check") == 4
        cves.write_policy(f'exclude = ["{first}"]')
        assert choices(cve(host, cves, "plan"))[second] == "left-out"

    @pytest.mark.parametrize(
        ("choose", "chosen"),
        [
            ("", {1, 2, 3, 4}),
            ('severity = "high"', {1, 2, 4}),
            ('severity = "critical"\nunrated = false', {1}),
            ('severity = "medium"\nunrated = false', {1, 2, 3}),
            ('exclude = ["CVE-2030-30001", "CVE-2030-30004"]', {2, 3}),
            ('severity = "critical"\nunrated = false\ninclude = ["CVE-2030-30003"]', {1, 3}),
            ("min_age_days = 1", set()),
            ('min_age_days = 1\ninclude = ["CVE-2030-30002"]', {2}),
            ("max_functions = 2", {1, 2}),
            ('max_functions = 1\ninclude = ["CVE-2030-30004"]', {4}),
        ],
    )
    def test_the_policy_chooses(self, host: SimulatedHost, cves: CveList, choose: str, chosen: set[int]) -> None:
        for number, score in ((1, 9.8), (2, 7.5), (3, 5.5), (4, None)):
            cves.add(number, "ok", score=score)
        cves.write_policy(choose)
        found = choices(cve(host, cves, "plan"))
        assert {int(name[-1]) for name, choice in found.items() if choice == "chosen"} == chosen

    def test_an_exploited_cve_is_chosen_whatever_its_severity(self, host: SimulatedHost, cves: CveList) -> None:
        name = cves.add(1, "ok", score=2.0)
        kev = host.root / "kev.json"
        kev.write_text(json.dumps({"vulnerabilities": [{"cveID": name, "dateAdded": "2030-05-01"}]}))
        cves.write_policy('severity = "critical"')
        assert choices(cve(host, cves, "plan"))[name] == "left-out"
        text = cves.policy.read_text().replace("[records]", f'[records]\nkev = "{kev}"')
        cves.policy.write_text(text)
        assert choices(cve(host, cves, "plan"))[name] == "chosen"

    def test_code_that_is_not_loaded_is_left_out_where_the_policy_says_so(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        server.sources = replace(MINE, sources={**MINE.sources, "drivers/lamp/part1.c": ("lamp",)})
        name = cves.add(1, "ok")
        cves.write_policy("loaded_only = true")
        assert choices(cve(host, cves, "plan"))[name] == "left-out"
        cves.write_policy()
        assert choices(cve(host, cves, "plan"))[name] == "chosen"

    def test_a_server_that_knows_another_build_of_the_kernel_is_refused(
        self, host: SimulatedHost, cves: CveList, server: CveServer
    ) -> None:
        server.sources = replace(MINE, build_id=BuildId("ff" * 20))
        cves.add(1, "ok")
        ran = cve(host, cves, "plan")
        assert (ran.status, ran.code) == (6, "other-build")

    def test_without_a_policy_nothing_is_guessed(self, host: SimulatedHost) -> None:
        ran = run_json(host, "cve", "plan")
        assert (ran.status, ran.code) == (2, "policy")


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
        '    kernels: ["6.1.*"]\n    expect: ["/proc/lamp =~ light"]\n    licence: GPL-2.0-only\n    author: A\n'
    )
    overlay.commit("Begin", {"overlay.yaml": text, "light.patch": "function fix_1\n+light\n"}, "-S")
    url = f"file://{overlay.top}"
    assert run(host, "overlay", "add", "lamps", url, "--signers", tmp_path / "signers").status == 0
    cves.policy.write_text(f'[records]\nsource = "{cves.records}"\n[[fixes]]\noverlays = true\n')
    ran = cve(host, cves, "close")
    assert ran.document["closed_now"] == [name], ran.err
    assert server.requests[-1]["expectations"] == [{"command": "/proc/lamp", "pattern": "light"}]
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

    def test_a_livepatch_for_another_host_is_saved_with_its_signature(
        self, host: SimulatedHost, cves: CveList, tmp_path: Path
    ) -> None:
        cves.add(1, "ok")
        out = tmp_path / "out.ko"
        ran = cve(host, cves, "close", "--kernel", RELEASE, "-o", out)
        assert ran.status == 0
        assert host.loads == 0
        assert set(ran.document["files"]) == {"module", "signature", "report"}
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


@pytest.mark.parametrize("command", [("cve", "plan"), ("cve", "close"), ("auto",)])
@pytest.mark.parametrize(
    ("options", "named"), [((), "found"), (("--base-patch",), "mine"), (("--no-base-patches",), "")]
)
def test_every_question_names_the_patches_that_the_kernel_was_built_with(
    host: SimulatedHost,
    cves: CveList,
    server: CveServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    options: tuple[str, ...],
    named: str,
) -> None:
    # Portage's are found on a Gentoo kernel only, and the server on loopback knows another one.
    found = (SourcePatch("found.patch", b"found"),)
    monkeypatch.setattr("elivepatch.client.server.base_patches.gentoo_patches", lambda *_: found)
    (tmp_path / "mine.patch").write_bytes(b"mine")
    given: list[str | Path] = [*options, *([tmp_path / "mine.patch"] if named == "mine" else [])]
    cves.add(1, "ok")
    cves.add(2, "needs another", file="drivers/lamp/part1.c")
    ran = run_json(host, *command, "--policy", cves.policy, *given)
    assert ran.status == 0, ran.err
    expected = [{"name": f"{named}.patch", "sha256": hashlib.sha256(named.encode()).hexdigest()}] if named else None
    assert [body.get("base_patches") or None for body in server.requests] == [expected] * len(server.requests)
    assert len(server.requests) == (3 if command[-1] == "plan" else 5)


@pytest.mark.parametrize("command", [("cve", "plan"), ("cve", "close"), ("auto",)])
def test_a_server_whose_base_lacks_a_patch_of_this_kernel_is_asked_no_further(
    host: SimulatedHost, cves: CveList, server: CveServer, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "mine.patch").write_bytes(b"mine")
    cves.add(1, "ok")
    server.mood = "other-base"
    ran = run_json(host, *command, "--policy", cves.policy, "--base-patch", tmp_path / "mine.patch")
    assert (ran.status, ran.code, host.loads) == (6, "base-patches", 0)
    assert CveCache(host.root / DIRECTORY).verdicts(RELEASE).by_cve["CVE-2030-30001"].asked is False


@pytest.mark.parametrize("command", ["plan", "close"])
def test_a_server_that_is_never_done_is_waited_for_no_longer_than_the_limit(
    host: SimulatedHost, cves: CveList, server: CveServer, command: str
) -> None:
    cves.add(1, "good")
    server.mood = "drops"
    ran = cve(host, cves, command, "--limit", "1")
    assert (ran.status, ran.code, host.loads) == (4, "limit-reached", 0)
    assert "Answers so far are kept" in ran.document["problem"]["advice"]
    server.mood = "well"
    assert cve(host, cves, command).status == 0
