# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch overlay` with real repositories and real signatures."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from git_repository import Repository
from host_commands import Ran, run, run_json
from simulated_host import SimulatedHost

from elivepatch import process
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.fixes.fixes import Fix, Wanted
from elivepatch.advisory.fixes.git_repository import GitFixes
from elivepatch.advisory.overlay import repository
from elivepatch.advisory.overlay.repository import OverlayFixes, OverlayRepository
from elivepatch.advisory.records.record import Findings
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.client.cve.subscriptions import Subscriptions
from elivepatch.model.errors import EnvironmentFault, ExitStatus
from elivepatch.model.predicate import Predicate
from elivepatch.model.trial import Expectation

OIL = "--- a/lamp.c\n+++ b/lamp.c\n@@ -1 +1 @@\n-dark\n+oil\n"
ENTRY = """\
  - id: {id}
    files: [patches/{id}.patch]
    cves: [CVE-2030-20001]
    kernels: ["6.1.*"]
    licence: GPL-2.0-only
    author: An Author
"""
HEAD = "overlay: 1\nname: lamps\nmaintainer: Somebody\npatches:\n"


class Signer:
    """A key, and the file that allows it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.key = directory / f"key-{name}"
        process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", self.key]).check("making a key")
        public = self.key.with_suffix(".pub").read_text()
        self.allowed = directory / f"signers-{name}"
        self.allowed.write_text(f'{name} namespaces="git" {public}')


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Signer]:
    directory = tmp_path_factory.mktemp("keys")
    return {name: Signer(directory, name) for name in ("keeper", "stranger")}


class Kit:
    """An overlay that somebody keeps, and a host that may subscribe to it."""

    def __init__(self, top: Path, keys: dict[str, Signer]) -> None:
        self.keys = keys
        self.host = SimulatedHost(top / "host")
        config = {"gpg.format": "ssh", "user.signingkey": str(keys["keeper"].key)}
        self.repository = Repository(top / "overlay", config=config)
        self.first = self.publish("Begin", "oil")

    def publish(self, message: str, *ids: str, sign: bool = True) -> str:
        files = {f"patches/{name}.patch": OIL for name in ids}
        text = HEAD + "".join(ENTRY.format(id=name) for name in ids)
        return self.repository.commit(message, {"overlay.yaml": text, **files}, *(["-S"] if sign else []))

    def run(self, *arguments: str | Path) -> Ran:
        return run_json(self.host, "overlay", *arguments)

    def add(self, name: str = "lamps", *options: str, signer: str = "keeper") -> Ran:
        url = f"file://{self.repository.top}"
        return self.run("add", name, url, "--signers", self.keys[signer].allowed, *options)

    def fixes(self) -> OverlayFixes:
        accepted = [one.accepted for one in Subscriptions(CveCache(self.host.root / DIRECTORY)).all()]
        return OverlayFixes(accepted, [])

    def find(self, kernel: str = "6.1.100", findings: Findings | None = None) -> Fix | None:
        wanted = Wanted(cve="CVE-2030-20001", kernel=parse_kernel_version(kernel), commits=())
        return self.fixes().find(wanted, findings if findings is not None else Findings())


@pytest.fixture
def kit(tmp_path: Path, keys: dict[str, Signer]) -> Kit:
    return Kit(tmp_path, keys)


def test_an_overlay_whose_newest_commit_is_signed_by_an_allowed_key_is_added(kit: Kit) -> None:
    ran = kit.add()
    assert ran.status == 0, ran.err
    (listed,) = kit.run("list").document
    assert (listed["name"], listed["commit"], listed["entries"]) == ("lamps", kit.first, 1)
    shown = kit.run("show", "lamps").document
    assert shown["patches"][0]["cves"] == ["CVE-2030-20001"]
    assert kit.run("show", "lamps", "--kernel", "5.10.3").document["patches"] == []
    assert "oil" in run(kit.host, "overlay", "show", "lamps", "oil").out


def test_a_key_that_is_not_allowed_is_refused_and_nothing_left_behind(kit: Kit) -> None:
    ran = kit.add(signer="stranger")
    assert (ran.status, ran.code) == (ExitStatus.TRUST, "overlay-unsigned")
    assert kit.run("list").document == []
    assert kit.add().status == 0


def test_an_unsigned_commit_is_not_used_and_what_was_accepted_stays(kit: Kit) -> None:
    kit.add()
    kit.publish("Slip in", "oil", "light", sign=False)
    ran = kit.run("update")
    assert ran.status == ExitStatus.TRUST
    assert ran.document[0]["problem"]["code"] == "overlay-unsigned"
    (listed,) = kit.run("list").document
    assert (listed["commit"], listed["entries"]) == (kit.first, 1)


def test_a_newer_signed_commit_is_accepted_and_reported(kit: Kit) -> None:
    kit.add()
    assert kit.run("update").document[0]["changed"] is False
    second = kit.publish("More", "oil", "light")
    ran = kit.run("update")
    assert (ran.document[0]["changed"], ran.document[0]["commit"]) == (True, second)
    assert kit.run("list").document[0]["entries"] == 2


def test_an_old_signed_state_that_is_served_again_is_refused(kit: Kit) -> None:
    kit.publish("More", "oil", "light")
    kit.add()
    kit.repository.git("reset", "--quiet", "--hard", kit.first)
    ran = kit.run("update")
    assert ran.document[0]["problem"]["code"] == "overlay-rewound"
    assert kit.run("list").document[0]["entries"] == 2


def test_several_are_updated_and_one_that_is_away_does_not_stop_the_others(kit: Kit, tmp_path: Path) -> None:
    kit.add("a")
    other = Repository(tmp_path / "other", config={"gpg.format": "ssh", "user.signingkey": str(kit.keys["keeper"].key)})
    other.commit("Begin", {"overlay.yaml": HEAD + "  []\n"}, "-S")
    assert kit.run("add", "b", f"file://{other.top}", "--signers", kit.keys["keeper"].allowed).status == 0
    (tmp_path / "overlay").rename(tmp_path / "gone")
    ran = kit.run("update")
    assert ran.status == ExitStatus.SERVICE
    assert [("problem" in one) for one in ran.document] == [True, False]
    assert kit.find() is not None


def test_higher_precedence_is_asked_first(kit: Kit) -> None:
    kit.add("a")
    kit.add("b", "--precedence", "5")
    assert [one["name"] for one in kit.run("list").document] == ["b", "a"]
    fix = kit.find()
    assert fix is not None
    assert fix.origin == "overlay b"


def test_an_overlay_that_is_removed_is_gone(kit: Kit) -> None:
    kit.add()
    assert kit.run("remove", "lamps").status == 0
    assert kit.find() is None
    assert kit.run("remove", "lamps").code == "overlay-unknown"


def test_its_entries_are_fixes_for_the_kernels_they_name(kit: Kit) -> None:
    kit.add()
    fix = kit.find()
    assert fix is not None
    assert [patch.name for patch in fix.patches] == ["CVE-2030-20001-oil-oil.patch"]
    assert fix.patches[0].content == OIL.encode()
    assert kit.find("5.10.3") is None


def test_what_an_entry_requires_goes_before_it(kit: Kit) -> None:
    text = HEAD + ENTRY.format(id="a") + "    requires: [z]\n" + ENTRY.format(id="z").replace("20001", "20009")
    kit.repository.commit("Chain", {"overlay.yaml": text, "patches/a.patch": OIL, "patches/z.patch": OIL + "\n"}, "-S")
    kit.add()
    fix = kit.find()
    assert fix is not None
    assert [patch.name.split("-")[3] for patch in fix.patches] == ["z", "a"]


def test_a_commit_is_asked_of_the_places_that_have_commits(kit: Kit, tmp_path: Path) -> None:
    kernel = Repository(tmp_path / "kernel")
    kernel.commit("Linux", {"lamp.c": "dark\n"})
    commit = kernel.commit("lamp: light it", {"lamp.c": "light\n"})
    text = HEAD + ENTRY.format(id="a").replace("files: [patches/a.patch]", f"commit: {commit}")
    kit.repository.commit("By commit", {"overlay.yaml": text}, "-S")
    kit.add()
    (one,) = Subscriptions(CveCache(kit.host.root / DIRECTORY)).all()
    wanted = Wanted(cve="CVE-2030-20001", kernel=parse_kernel_version("6.1.100"), commits=())
    fix = OverlayFixes([one.accepted], [GitFixes(kernel.top)]).find(wanted, Findings())
    assert fix is not None
    assert b"+light" in fix.patches[0].content
    findings = Findings()
    assert OverlayFixes([one.accepted], []).find(wanted, findings) is None
    assert findings.counts == {"bad-fix": 1}


def test_links_in_an_overlay_are_no_files(kit: Kit) -> None:
    (kit.repository.top / "patches/oil.patch").unlink()
    (kit.repository.top / "patches/oil.patch").symlink_to("/etc/passwd")
    kit.repository.commit("Link", {}, "-S")
    kit.add()
    findings = Findings()
    assert kit.find(findings=findings) is None
    assert findings.counts == {"overlay-entry": 1}
    assert kit.run("list").document[0]["findings"] == 1


def test_the_file_of_2019_is_read_from_a_signed_commit_too(kit: Kit) -> None:
    old = (
        "livepatch_version: 0.1\n- 6.1.100\n  - patch_id: 1\n    cve_id: CVE-2030-20001\n    path: patches/oil.patch\n"
    )
    kit.repository.commit("Old", {"overlay.yaml": None, "elivepatch.yml": old}, "-S")
    kit.add()
    assert kit.find() is not None


@pytest.mark.parametrize("content", ["overlay: 2\n", None])
def test_an_overlay_without_anything_usable_says_so(kit: Kit, content: str | None) -> None:
    kit.repository.commit("Broken", {"overlay.yaml": content}, "-S")
    kit.add()
    findings = Findings()
    assert kit.find(findings=findings) is None
    assert findings.counts == {"overlay-file": 1}


def test_a_repositorys_own_configuration_runs_nothing(kit: Kit, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexit 0\n")
    trap.chmod(0o755)
    for name in ("uploadpack.packObjectsHook", "gpg.ssh.program", "core.fsmonitor", "core.pager", "gpg.program"):
        kit.repository.git("config", name, str(trap))
    hooks = kit.repository.top / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("pre-receive", "post-checkout", "reference-transaction"):
        (hooks / hook).symlink_to(trap)
    assert kit.add().status == 0
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("add", "../x", "file:///srv/x"), "overlay-name"),
        (("add", "x", "ext::sh -c true"), "overlay-url"),
        (("add", "x", "http://example.org/x.git"), "overlay-url"),
        (("add", "x", "file:///srv/x", "--branch=--upload-pack=x"), "overlay-branch"),
        (("add", "x", "file:///nonexistent/x"), "overlay-fetch"),
    ],
)
def test_what_cannot_be_subscribed_to(kit: Kit, arguments: tuple[str, ...], code: str) -> None:
    ran = kit.run(*arguments, "--signers", kit.keys["keeper"].allowed)
    assert ran.code == code
    assert kit.run("list").document == []


def test_a_name_that_is_taken_and_signers_that_are_missing_are_refused(kit: Kit, tmp_path: Path) -> None:
    kit.add()
    assert kit.add().code == "overlay-taken"
    ran = kit.run("add", "x", "file:///srv/x", "--signers", tmp_path / "missing")
    assert ran.code == "overlay-signers"


def test_a_damaged_subscription_is_reported_with_advice(kit: Kit) -> None:
    kit.add()
    (kit.host.root / DIRECTORY / "overlays/lamps/subscription.json").write_text("{")
    assert kit.run("list").code == "overlay-damaged"


class TestLint:
    def test_a_good_overlay_has_no_findings(self, kit: Kit) -> None:
        ran = kit.run("lint", kit.repository.top)
        assert (ran.status, ran.document["findings"], ran.document["entries"]) == (0, [], 1)

    def test_every_mistake_is_listed_and_the_status_says_so(self, kit: Kit) -> None:
        text = HEAD + ENTRY.format(id="oil") + ENTRY.format(id="gone") + ENTRY.format(id="x") + "    licence2: y\n"
        (kit.repository.top / "overlay.yaml").write_text(text)
        ran = kit.run("lint", kit.repository.top)
        assert ran.status == ExitStatus.FAILED
        assert {one["about"] for one in ran.document["findings"]} == {"gone", "x"}

    def test_a_directory_that_is_no_overlay_is_a_usage_error(self, kit: Kit, tmp_path: Path) -> None:
        assert kit.run("lint", tmp_path / "nothing").code == "overlay-missing"


PREDICATE = "// elivepatch: seconds=9\nint main(void) { return 1; }\n"


def expecting(predicate: str) -> dict[str, str]:
    text = HEAD + ENTRY.format(id="oil") + '    expect: [patches/oil.expect.c, "/proc/lamp =~ light"]\n'
    return {"overlay.yaml": text, "patches/oil.patch": OIL, "patches/oil.expect.c": predicate}


def test_a_predicate_of_an_overlay_goes_with_its_fix(kit: Kit) -> None:
    kit.repository.commit("Expect", expecting(PREDICATE), "-S")
    kit.add()
    fix = kit.find()
    assert fix is not None
    command, predicate = fix.expectations
    assert command == Expectation(command="/proc/lamp", pattern="light")
    assert predicate == Expectation.of(Predicate(name="oil.expect.c", source=PREDICATE))
    shown = kit.run("show", "lamps", "oil").document
    assert shown["patches"][0]["expect"] == ["/proc/lamp =~ light", "patches/oil.expect.c"]
    assert kit.run("lint", kit.repository.top).document["findings"] == []


def test_a_predicate_that_cannot_be_one_costs_the_fix_and_is_found_by_lint(kit: Kit) -> None:
    kit.repository.commit("Expect", expecting(PREDICATE.replace("seconds=9", "hours=9")), "-S")
    kit.add()
    findings = Findings()
    assert kit.find(findings=findings) is None
    assert findings.counts == {"bad-fix": 1}
    assert "unknown limit 'hours'" in findings.last
    ran = kit.run("lint", kit.repository.top)
    assert ran.status == 1
    assert ran.document["findings"][0]["about"] == "oil"


def test_a_fetch_without_end_stops_at_its_limit_and_leaves_nothing(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = OverlayRepository(tmp_path / "ours", f"file://{kit.repository.top}", "", kit.keys["keeper"].allowed)
    assert ours.update()
    accepted = ours.accepted
    # More files than git unpacks one by one, so that they come as a pack.
    kit.repository.commit("Grow", {f"f{number}": secrets.token_hex(9000) for number in range(200)}, "-S")
    monkeypatch.setattr(repository, "_PACK_BYTES", 1 << 20)
    with pytest.raises(EnvironmentFault) as caught:
        ours.update()
    assert caught.value.problem.code == "overlay-fetch"
    assert ours.accepted == accepted
    assert not list(ours.directory.glob("objects/pack/tmp_*"))
    monkeypatch.undo()
    assert ours.update()
