# SPDX-License-Identifier: GPL-2.0-or-later
"""From a policy to a plan: a real client, a server on loopback that decides by words, a simulated kernel."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cve_commands import choices, cve, reasons
from cve_list import CveList
from cve_server import MINE, CveServer
from host_commands import run_json
from simulated_host import RELEASE, SimulatedHost

from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.model.kernel import BuildId, Digest
from elivepatch.model.series import SourcePatch

pytestmark = pytest.mark.integration


@pytest.fixture
def cves(tmp_path: Path) -> CveList:
    return CveList(tmp_path / "list")


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
        assert choices(ran, status=4) == {
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
