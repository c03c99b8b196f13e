# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of every client command, one for each situation in which its --json output differs.

`build`, `check`, `kernels`, `reprove` and `cancel` talk to the assembled server, all others to a CveServer on loopback.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from assembled import Assembled
from cve_list import CveList
from cve_server import CveServer
from fake_backend import KERNEL
from git_repository import Repository
from host_commands import Ran, run_json, save
from pushing_host import RELEASE as OWN_RELEASE
from pushing_host import pushing_host, put
from schema_check import published, require_published
from simulated_host import KEY, NEVER, RELEASE, SimulatedHost, Task, make_livepatch

from elivepatch import process
from elivepatch.client import cli
from elivepatch.client.host import machine as machines
from elivepatch.client.host.machine import Machine
from elivepatch.client.proof.files import proof_beside
from elivepatch.client.push import compiler
from elivepatch.client.push.compiler import NEEDED
from elivepatch.files.digest import sha256
from elivepatch.output import Output
from elivepatch.trust.envelope import sign_proof
from elivepatch.trust.statement import Statement

SMALL = Path(__file__).parent.parent / "unit/data/cve-list"
OVERLAY = """\
overlay: 1
name: lamps
patches:
  - id: light
    files: [light.patch]
    cves: [CVE-2030-30001]
    kernels: ["6.1.*"]
    expect: ["/proc/lamp =~ light"]
    licence: GPL-2.0-only
    author: An Author
  - id: broken
"""
OVERRIDE = f"""\
[CVE-2030-10003]
why = "seen in this house"
title = "lamp"
files = ["drivers/lamp/wick.c"]
ranges = [{{ introduced = "5.10", introduced_commit = "{"a" * 40}" }}]
"""
OLDER = {
    "affected_versions": "v4.8-rc1 to v5.4-rc3",
    "breaks": "a" * 40,
    "fixes": "b" * 40,
    "cmt_msg": "lamp: do not burn the table",
}


def run_connected(*argv: str) -> tuple[int, Any]:
    """Run a command that talks to the assembled server; its output must follow the published schema."""
    out = io.StringIO()  # the server logs to standard output
    with mock.patch("elivepatch.commandline.Output", return_value=Output(out=out)):
        status = cli.main([*argv, "--json"])
    document = json.loads(out.getvalue())
    require_published(argv, document)
    return status, document


@dataclass(frozen=True)
class Kit:
    """A host, the two servers it talks to, and a list of CVEs with their fixes."""

    top: Path
    host: SimulatedHost
    builds: Assembled
    server: CveServer
    cves: CveList

    def good(self, *words: str | Path, status: int = 0) -> Ran:
        """Run a command that must succeed, or end with the given status."""
        ran = run_json(self.host, *words)
        assert ran.status == status, (words, ran.out, ran.err)
        return ran

    def patch(self, words: str) -> str:
        file = self.top / "fix.patch"
        file.write_text(words)
        return str(file)

    def module(self, name: str = "elp_a", *, series: int = 1, replace: bool = True) -> Path:
        made = make_livepatch(name, series=[f"{one:064x}" for one in range(series)], replace=replace)
        return save(made, self.top / "files")

    def overlay(self) -> Repository:
        """Subscribe the host to two overlays, of which one is unreachable; return the other."""
        process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.top / "key"]).check("making a key")
        signers = self.top / "signers"
        signers.write_text(f"keeper {(self.top / 'key.pub').read_text()}")
        config = {"gpg.format": "ssh", "user.signingkey": str(self.top / "key")}
        made = [Repository(self.top / name, config=config) for name in ("here", "away")]
        for one in made:
            one.commit("Begin", {"overlay.yaml": OVERLAY, "light.patch": "function fix_1\n"}, "-S")
            self.good("overlay", "add", one.top.name, f"file://{one.top}", "--signers", signers)
        made[1].top.rename(self.top / "gone")
        return made[0]


def _apply(kit: Kit) -> None:
    for options in (("--dry-run",), (), ()):
        kit.good("apply", kit.patch("function light"), *options)


def _load(kit: Kit) -> None:
    for options in (("--dry-run",), (), ()):
        kit.good("load", kit.module(), *options)
    kit.host.tasks.append(Task(9, "reader", function="meminfo_proc_show", leaves_at=kit.host.time + 10))
    kit.good("load", kit.module("elp_b", series=2))


def _verify(kit: Kit) -> None:
    assert kit.good("verify", kit.module()).document["problem"] is None
    untried = save(make_livepatch("elp_b", trial=lambda _: None), kit.top / "files")
    told = kit.good("verify", untried, status=6).document
    assert (told["problem"]["code"], told["trial"]["outcome"]) == ("trial-required", "none")


def _reprove(kit: Kit) -> None:
    module, patch = kit.top / "fix.ko", kit.patch("sleep 0\nproved twice")
    assert run_connected("build", patch, "--kernel", KERNEL.release, "-o", str(module))[0] == 0
    made = json.loads(base64.b64decode(json.loads(proof_beside(module).read_bytes())["payload"]))
    details = made["predicate"]["runDetails"]
    details["builder"]["id"] = f"urn:elivepatch:server:{KEY.public.fingerprint}"  # as if the host's server had built it
    proof_beside(module).write_bytes(sign_proof(KEY, Statement.of(made)))
    with mock.patch.object(machines, "this_machine", return_value=kit.host.machine):
        assert run_connected("reprove", str(module))[1]["problem"]["code"] == "source-missing"
        assert run_connected("reprove", str(module), patch)[1]["identical"]
        other = module.read_bytes() + b"!"
        made["subject"][0]["digest"]["sha256"] = sha256(other)
        details["elivepatch_livepatch"]["size_bytes"] = len(other)
        module.write_bytes(other)
        proof_beside(module).write_bytes(sign_proof(KEY, Statement.of(made)))
        status, told = run_connected("reprove", str(module), patch)
    assert (status, told["identical"], told["problem"]["code"]) == (5, False, "not-identical")


def _change(*more: str) -> Callable[[Kit], None]:
    def changed(kit: Kit) -> None:
        kit.good("load", kit.module())
        for words in ("disable elp_a", "enable elp_a", *more):
            kit.good(*words.split())

    return changed


def _boot(kit: Kit) -> None:
    assert kit.good("boot").document["did"] == "nothing"
    kit.good("load", kit.module())
    assert kit.good("boot", "--mark-clean").document["did"] == "mark-clean"
    kit.host.boot()
    assert kit.good("boot").document["did"] == "loaded"
    kit.host.put("proc/cmdline", "quiet elivepatch.off\n")
    assert kit.good("boot").document["did"] == "switched-off"


def _reading(command: str) -> Callable[[Kit], None]:
    def read(kit: Kit) -> None:
        host = kit.host
        run_json(host, command)
        run_json(host, "load", kit.module())
        run_json(host, command)
        run_json(host, "load", kit.module("elp_s", replace=False))
        run_json(host, "disable", "elp_s")
        run_json(host, command)
        host.tasks.append(Task(9, "reader", function="meminfo_proc_show", leaves_at=NEVER))
        with kit.module("kpatch_x", replace=False).open("rb") as file:
            host.load(file.fileno())
        run_json(host, command)
        host.boot()
        run_json(host, "boot")
        run_json(host, command)
        (host.store.kernel_directory / "state.json").write_text("{")
        run_json(host, command)
        (host.root / "sys/kernel/notes").write_bytes(b"")
        assert run_json(host, command).document

    return read


def _jobs(command: str) -> Callable[[Kit], None]:
    def ended(kit: Kit) -> None:
        for words, status in (("sleep 0", 0), ("verdict", 3), ("compile-error", 1), ("explode", 4)):
            assert run_connected(command, kit.patch(words), "--kernel", KERNEL.release)[0] == status

    return ended


def _cancel(kit: Kit) -> None:
    assert run_connected("cancel", kit.builds.ask("sleep 60\nlong").json()["id"])[0] == 0


def _kernels(_: Kit) -> None:
    assert run_connected("kernels")[1]["kernels"][0]["release"] == KERNEL.release


def _kernel_push(kit: Kit) -> None:
    host = pushing_host(kit.top / "own")
    with mock.patch.object(machines, "this_machine", return_value=Machine(host, kit.host, kit.host)):
        seen = [run_connected("kernel", "push", *options)[1] for options in (["--dry-run"], [], [])]
    assert [(one["known"], one["job"] is not None) for one in seen] == [(False, False), (True, True), (True, False)]


def _toolchain_capture(kit: Kit) -> None:
    host = pushing_host(kit.top / "own")
    config = b'CONFIG_CC_VERSION_TEXT="gcc (Gentoo 13.3.1) 13.3.1"\n'
    put(host.root, f"boot/config-{OWN_RELEASE}", config)
    put(host.root, "usr/bin/gcc", b"program")
    for name in NEEDED:
        put(host.root, f"usr/bin/{name}", b"program")
    kit.host.root = host.root
    answer = mock.Mock(ok=True, text="gcc (Gentoo 13.3.1) 13.3.1")
    with mock.patch.object(compiler, "run", return_value=answer):
        assert kit.good("toolchain", "capture", "-o", kit.top / "gcc.tar.gz").document["compiler"] == "gcc"


def _enroll(kit: Kit) -> None:
    fingerprint = kit.server.key.public.shown
    kit.good("enroll", kit.server.url, "--fingerprint", fingerprint)
    assert run_json(kit.host, "enroll", kit.server.url, "--fingerprint", "ab" * 32).code == "other-key"


def _records(kit: Kit) -> list[str | Path]:
    older = kit.top / "older"
    older.mkdir(exist_ok=True)
    (older / "kernel_cves.json").write_text(json.dumps({"CVE-2019-90001": OLDER}))
    (older / "stream_fixes.json").write_text("{}")
    (kit.top / "overrides.toml").write_text(OVERRIDE)
    return ["--records", SMALL, "--older", older, "--overrides", kit.top / "overrides.toml"]


def _cve_index(kit: Kit) -> None:
    kit.cves.add(1)
    (kit.cves.records / "CVE-2030-10000.json").write_text("{")
    told = kit.good("cve", "index", "-o", kit.top / "a.idx", "--records", kit.cves.records).document
    assert sum(told["set_aside"].values()) == len(told["findings"]) == 1
    for unchanged in (0, 9):
        told = kit.good("cve", "index", "-o", kit.top / "b.idx", *_records(kit)).document
        assert (told["unchanged"], told["older"], told["overrides"]) == (unchanged, 1, 1)


def _on_kernels(kit: Kit, *words: str | Path) -> list[Any]:
    """Documents of a command for a vanilla kernel, for this host, and for this host after CVEs were closed."""
    told = [kit.good(*words, *_records(kit), "--kernel", "6.1.176").document]
    kit.good("cve", "update")
    told.append(kit.good(*words, *_records(kit)).document)
    kit.cves.add(1, "ok")
    kit.cves.add(2, "refused")
    kit.good("cve", "close")
    told.append(kit.good(*words).document)
    return told


def _cve_list(kit: Kit) -> None:
    vanilla, own, closed = _on_kernels(kit, "cve", "list")
    assert "overridden" in next(one for one in vanilla if one["id"] == "CVE-2030-10003")
    assert {"built", "loaded", "closed", "open", "fix"} <= set(own[0])
    assert [one["closed"] is None for one in closed] == [False, True]
    assert closed[1]["fix"]["code"] == "data-layout"
    (kit.top / "kev").write_text('{"vulnerabilities": [{"cveID": "CVE-2030-30001", "dateAdded": "2030-05-01"}]}')
    (kit.top / "epss").write_text("cve,epss,percentile\nCVE-2030-30001,0.5,0.9\n")
    (told, _) = kit.good("cve", "list", "--kev", kit.top / "kev", "--epss", kit.top / "epss").document
    assert (told["exploited_since"], told["exploit_probability"]) == ("2030-05-01", 0.5)
    assert kit.good("cve", "list", "--state", "not-affected").document == []
    openvex = kit.good("cve", "list", "--openvex").document
    assert openvex["@context"] in published("cve-list.json")["title"], "its own published format is named"


def _cve_closed(kit: Kit) -> None:
    def answer(name: str) -> tuple[int, Any, str]:
        ran = run_json(kit.host, "cve", "closed", name, *_records(kit))
        return ran.status, ran.document["closed"], ran.document["by"]

    kit.good("cve", "update")
    assert answer("CVE-2030-10009") == (4, None, "rejected")
    answers = {name: answer(f"CVE-2030-1000{name}") for name in range(1, 9)}
    assert {status for status, _, _ in answers.values()} == {0, 1}


def _cve_show(kit: Kit) -> None:
    assert kit.good("cve", "show", "CVE-2030-10009", *_records(kit)).document["state"] == "rejected"
    assert "state" not in kit.good("cve", "show", "CVE-2030-10003", *_records(kit)).document
    kit.good("cve", "update")
    for name in ("CVE-2030-10003", "CVE-2019-90001"):
        assert "open" in kit.good("cve", "show", name, *_records(kit)).document
    kit.cves.add(1, "ok")
    kit.cves.add(2, "refused")
    kit.good("cve", "close")
    assert kit.good("cve", "show", "CVE-2030-30001").document["closed"]["by"] == kit.host.live[0]
    assert kit.good("cve", "show", "CVE-2030-30002").document["fix"]["code"] == "data-layout"


def _cve_summary(kit: Kit) -> None:
    vanilla, own, closed = _on_kernels(kit, "cve", "summary")
    assert "funnel" not in vanilla
    assert "fixes" in own["funnel"]
    assert closed["funnel"]["closed"] == 1


def _cve_update(kit: Kit) -> None:
    assert kit.good("cve", "update").document["records"] is None
    kit.good("cve", "index", "-o", kit.top / "cve.idx", *_records(kit))
    kit.server.records = (kit.top / "cve.idx").read_bytes()
    assert kit.good("cve", "update").document["records"]["changed"]
    assert "records" not in kit.good("cve", "update", "-o", kit.top / "sources.json").document


def _words(kit: Kit) -> list[str]:
    """Add CVEs that reach every outcome; return the ids of those that can be closed."""
    first = kit.cves.add(1, "ok", fixed=178)
    for number, words in enumerate(("refused", "applied", "confuses", f"clashes {first}", "ok"), 2):
        kit.cves.add(number, words)
    kit.cves.add(9)
    kit.cves.write_policy(f'exclude = ["{kit.cves.add(8, "ok")}"]')
    kit.host.put("etc/elivepatch/policy.toml", kit.cves.policy.read_text())
    return [first, "CVE-2030-30006"]


def _cve_plan(kit: Kit) -> None:
    _words(kit)
    # The plan drops fixes that the source already has, as soon as the server has reported it.
    for options, choices in (((), 6), ((), 5), (("--kernel", RELEASE), 5)):
        counts = kit.good("cve", "plan", *options, status=4).document["counts"]
        assert sum(bool(count) for count in counts.values()) == choices


def _cve_close(kit: Kit) -> None:
    _words(kit)
    told = kit.good("cve", "close", "--kernel", RELEASE, "-o", kit.top / "fixes.ko", status=4).document
    assert (told["applied"], set(told["files"])) == (None, {"module", "proof", "report"})
    assert kit.good("cve", "close", status=4).document["applied"]["loaded"]
    assert kit.good("cve", "close", status=4).document["livepatch"] is None


def _auto(kit: Kit) -> None:
    names = _words(kit)
    assert "closed_now" not in kit.good("auto", "--plan-only", status=4).document
    assert kit.good("auto", status=4).document["closed_now"] == names
    assert kit.good("auto", "--now", status=4).document["closed_now"] == []
    local = kit.host.now().astimezone()
    window = f"{local + timedelta(hours=1):%H:%M}-{local + timedelta(hours=2):%H:%M}"
    kit.cves.write_policy(auto=f'window = "{window}"')
    kit.host.put("etc/elivepatch/policy.toml", kit.cves.policy.read_text())
    assert kit.good("auto").document == {"outside_window": True}


def _overlay_add(kit: Kit) -> None:
    kit.overlay()


def _overlay_list(kit: Kit) -> None:
    assert kit.good("overlay", "list").document == []
    kit.overlay()
    assert len(kit.good("overlay", "list").document) == 2


def _overlay_update(kit: Kit) -> None:
    kit.overlay()
    ran = run_json(kit.host, "overlay", "update")
    assert {one["name"]: "problem" in one for one in ran.document} == {"away": True, "here": False}


def _overlay_show(kit: Kit) -> None:
    kit.overlay()
    told = kit.good("overlay", "show", "here").document
    assert (told["findings"], told["patches"][0]["expect"]) == (1, ["/proc/lamp =~ light"])
    assert kit.good("overlay", "show", "here", "--kernel", "5.10.3").document["patches"] == []


def _overlay_remove(kit: Kit) -> None:
    kit.overlay()
    kit.good("overlay", "remove", "here")


def _overlay_lint(kit: Kit) -> None:
    ran = run_json(kit.host, "overlay", "lint", kit.overlay().top)
    assert (ran.status, [one["about"] for one in ran.document["findings"]]) == (1, ["broken"])


RUNS: dict[str, Callable[[Kit], object]] = {
    "apply": _apply,
    "auto": _auto,
    "boot": _boot,
    "build": _jobs("build"),
    "cancel": _cancel,
    "check": _jobs("check"),
    "config show": lambda kit: kit.good("config", "show"),
    "cve close": _cve_close,
    "cve closed": _cve_closed,
    "cve index": _cve_index,
    "cve list": _cve_list,
    "cve plan": _cve_plan,
    "cve show": _cve_show,
    "cve summary": _cve_summary,
    "cve update": _cve_update,
    "disable": _change(),
    "doctor": _reading("doctor"),
    "enable": _change(),
    "enroll": _enroll,
    "history": _reading("history"),
    "kernel push": _kernel_push,
    "kernels": _kernels,
    "list": _reading("list"),
    "load": _load,
    "overlay add": _overlay_add,
    "overlay lint": _overlay_lint,
    "overlay list": _overlay_list,
    "overlay remove": _overlay_remove,
    "overlay show": _overlay_show,
    "overlay update": _overlay_update,
    "reprove": _reprove,
    "rollback": _change("rollback"),
    "status": _reading("status"),
    "toolchain capture": _toolchain_capture,
    "unload": _change("unload elp_a"),
    "verify": _verify,
}
