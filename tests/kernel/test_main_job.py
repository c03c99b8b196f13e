# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job as users do it: a real server, the real commands, real kernels."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from deadline import wait_until
from real_server import Server

from elivepatch.build.base.provenance import materials_of
from elivepatch.build.base.store import Base
from elivepatch.build.builders.select import VERSIONS
from elivepatch.client.proof.claims import not_proved
from elivepatch.client.proof.files import proof_beside
from elivepatch.client.proof.reproof import reprove
from elivepatch.client.server.api import ServerClient
from elivepatch.files.digest import sha256
from elivepatch.model.errors import UsageError
from elivepatch.model.progress import silent
from elivepatch.model.provenance import BASE_INPUT, SOURCE_PATCH, Material
from elivepatch.model.series import SourcePatch
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ClientSettings, ServerSettings
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.statement import Statement

PATCHES = Path(__file__).parents[2] / "demo/patches"


@pytest.fixture(scope="module")
def built(server: Server, base_6_1: Base, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A vmlinux livepatch for 6.1, built and tried; what the command left behind."""
    output = tmp_path_factory.mktemp("output") / "fix.ko"
    status, report, printed = server.run(
        "build", PATCHES / "vmlinux-meminfo.patch", "--kernel", base_6_1.release, "-o", output,
        "--expect", "/proc/meminfo =~ VMALLOCCHUNK", "--expect", PATCHES / "vmlinux-meminfo.expect.c",
    )  # fmt: skip
    return {"status": status, "report": report, "progress": printed, "output": output}


def test_a_source_patch_becomes_a_livepatch_that_works_on_the_stock_kernel(built: dict[str, Any]) -> None:
    assert built["status"] == 0
    trial = built["report"]["trial"]
    seen, _predicate = trial["observations"]
    assert "VmallocChunk" in seen["before"]
    assert "VMALLOCCHUNK" in seen["during"]
    assert "VMALLOCCHUNK" not in seen["after"]
    assert (trial["reverted"], trial["reloaded"], trial["clean_log"]) == (True, True, True)


def test_a_predicate_in_c_sees_the_change_come_and_go(built: dict[str, Any]) -> None:
    """docs/predicates.md shows this predicate."""
    _command, seen = built["report"]["trial"]["observations"]
    assert seen["seen"] == {"before": "open", "during": "closed", "after": "open", "again": "closed"}
    assert (seen["met"], seen["tried"], seen["command"]) == (True, True, "vmlinux-meminfo.expect.c")
    assert seen["before"].startswith("VmallocChunk:")
    assert seen["during"].startswith("VMALLOCCHUNK:")


def test_the_trial_ran_the_very_kernel_of_the_base(built: dict[str, Any], base_6_1: Base) -> None:
    assert built["report"]["trial"]["build_id"] == base_6_1.build_id == built["report"]["build_id"]


def test_the_module_the_logs_and_the_report_are_saved(built: dict[str, Any]) -> None:
    output: Path = built["output"]
    assert hashlib.sha256(output.read_bytes()).hexdigest() == built["report"]["module_sha256"]
    assert "create-diff-object" in output.with_suffix(".log").read_text()
    assert "Linux version 6.1" in output.with_suffix(".console.log").read_text(errors="replace")
    assert json.loads(output.with_suffix(".report.json").read_text())["id"] == built["report"]["id"]


def test_progress_is_told_while_it_is_made(built: dict[str, Any]) -> None:
    for stage in ("apply", "compile", "link", "check", "trial"):
        assert f"{stage}: " in built["progress"]


@pytest.fixture(scope="module")
def statement(server: Server, built: dict[str, Any]) -> Statement:
    """The verified statement in the proof that was saved beside the module."""
    key = PublicKey.from_hex(server.get("/v1/key").json()["public_key"])
    return verify_livepatch(proof_beside(built["output"]).read_bytes(), built["output"].read_bytes(), [key])


def test_the_proof_names_what_the_module_was_made_from(
    statement: Statement, settings: ServerSettings, base_6_1: Base
) -> None:
    assert (statement.build_id, statement.replace) == (base_6_1.build_id, True)
    backend = LocalBackend(settings)
    series = Material(
        kind=SOURCE_PATCH,
        name="vmlinux-meminfo.patch",
        digest=sha256((PATCHES / "vmlinux-meminfo.patch").read_bytes()),
    )
    assert statement.materials == (series, *materials_of(base_6_1, backend.toolchains.helper()))
    inputs = [one.name for one in statement.materials if one.kind == BASE_INPUT]
    assert any(name.startswith("linux-source-6.1_") for name in inputs)
    assert statement.tools == {"elivepatch": version("elivepatch"), "objects": str(VERSIONS["objects"])}


def test_the_proof_has_the_checks_and_apart_what_the_guest_reported_and_what_was_seen_from_outside(
    statement: Statement, built: dict[str, Any]
) -> None:
    one = {"fidelity": 1, "layout": 1, "account": 1, "references": 1, "entries": 1}
    assert {name: count for name, count in statement.checks.items() if name != "sample"} == one
    assert statement.checks["sample"] >= 100
    trial, report = statement.trial_document, built["report"]["trial"]
    assert trial["observed"] == report["outside"]
    assert trial["observed"]["seen"]
    assert trial["reported"]["functions"] == report["functions"]
    assert [one["met"] for one in trial["reported"]["expectations"]] == [True, True]
    assert trial["accelerator"] == report["accelerator"]
    assert [one.code for one in not_proved(statement)] == ["second-builder", "over-earlier", "debug"]


def test_another_server_builds_the_same_bytes_again_from_the_proof(
    settings: ServerSettings, statement: Statement, tmp_path: Path
) -> None:
    patch = PATCHES / "vmlinux-meminfo.patch"
    other = Server(tmp_path / "state", settings.cache_dir)
    other.start()
    try:
        with ServerClient(ClientSettings(url=other.url, token=other.token)) as client:
            with pytest.raises(UsageError, match=r"lacks vmlinux-meminfo\.patch"):
                reprove(client, statement, (), (), silent)
            again = reprove(client, statement, [SourcePatch("any name", patch.read_bytes())], (), silent)
    finally:
        other.end()
    assert again.identical


@pytest.mark.extended
def test_a_module_patch_works_on_a_kernel_with_ibt(server: Server, base_6_12: Base, tmp_path: Path) -> None:
    status, report, _ = server.run(
        "build", PATCHES / "module-8021q.patch", "--kernel", base_6_12.release, "-o", tmp_path / "vlan.ko",
        "--expect", "/proc/net/vlan/config =~ VLAN id",
    )  # fmt: skip
    assert status == 0
    assert [(one["object"], one["name"]) for one in report["functions"]] == [("8021q", "vlan_seq_show")]
    assert report["trial"]["observations"][0]["met"]


@pytest.mark.extended
def test_an_expectation_that_is_not_met_fails_the_build(server: Server, base_6_1: Base, tmp_path: Path) -> None:
    status, report, _ = server.run(
        "build", PATCHES / "vmlinux-meminfo.patch", "--kernel", base_6_1.release, "-o", tmp_path / "x.ko",
        "--expect", "/proc/meminfo =~ NEVERTHERE",
    )  # fmt: skip
    assert (status, report["problem"]["code"]) == (1, "trial-expectation")
    assert not (tmp_path / "x.ko").exists()


def test_check_answers_with_the_verdict_only(server: Server, base_6_1: Base, tmp_path: Path) -> None:
    status, _, _ = server.run("check", PATCHES / "vmlinux-meminfo.patch", "--kernel", base_6_1.release)
    assert status == 0
    makefile = tmp_path / "makefile.patch"
    makefile.write_text("--- a/Makefile\n+++ b/Makefile\n@@ -1,1 +1,1 @@\n-VERSION = 6\n+VERSION = 7\n")
    status, answer, _ = server.run("check", makefile, "--kernel", base_6_1.release)
    assert status == 3
    assert "patch-build-files" in json.dumps(answer)


def test_a_kernel_that_no_provider_has_is_named_with_what_each_says(server: Server) -> None:
    status, answer, _ = server.run("check", PATCHES / "vmlinux-meminfo.patch", "--kernel", "5.4.0-1-amd64")
    assert status == 4
    assert answer["problem"]["code"] == "kernel-not-provided"
    assert "5.4.0-1-amd64" in answer["problem"]["message"]
    said = [line.partition(":")[0] for line in answer["problem"]["excerpt"].splitlines()]
    assert said == ["debian", "packages", "host", "source"]


@pytest.mark.extended
def test_a_server_killed_while_it_compiles_goes_on_and_hands_out_a_whole_module(
    settings: ServerSettings, base_6_1: Base, tmp_path: Path
) -> None:
    server = Server(tmp_path / "state", settings.cache_dir)
    server.start()
    try:
        patch = tmp_path / "mine.patch"
        patch.write_text((PATCHES / "vmlinux-meminfo.patch").read_text().replace("VMALLOCCHUNK", f"V{os.getpid()}"))
        client = server.client(
            "build", patch, "--kernel", base_6_1.release, "-o", tmp_path / "mine.ko", "--no-trial", "--json"
        )
        wait_until(lambda: any((tmp_path / "state/work").glob("*/")), within_s=90)
        server.end(signal.SIGKILL)
        assert not (tmp_path / "mine.ko").exists()
        server.start()
        out, _ = client.communicate(timeout=120)
        report = json.loads(out)
        assert (client.returncode, report["result"]) == (0, "success")
        assert hashlib.sha256((tmp_path / "mine.ko").read_bytes()).hexdigest() == report["module_sha256"]
    finally:
        server.end()


@pytest.mark.extended
def test_a_server_that_starts_leaves_the_builds_of_another_one_on_its_cache_alone(
    server: Server, settings: ServerSettings, base_6_1: Base, tmp_path: Path
) -> None:
    patch = tmp_path / "shared.patch"
    patch.write_text((PATCHES / "vmlinux-meminfo.patch").read_text().replace("VMALLOCCHUNK", f"S{os.getpid()}"))
    scratch = settings.cache_dir / "scratch"
    before = set(scratch.glob("job-*"))
    client = server.client(
        "build", patch, "--kernel", base_6_1.release, "-o", tmp_path / "shared.ko", "--no-trial", "--json"
    )
    under_way = wait_until(lambda: set(scratch.glob("job-*")) - before, within_s=30)
    assert under_way
    for place in under_way:
        # A sweep leaves what is young alone anyway.
        os.utime(place, (time.time() - 3600,) * 2)
    second = Server(tmp_path / "state", settings.cache_dir)
    second.start()
    try:
        out, errors = client.communicate(timeout=120)
        assert client.returncode == 0, errors
        report = json.loads(out)
        status, other, _ = second.run(
            "build", patch, "--kernel", base_6_1.release, "-o", tmp_path / "other.ko", "--no-trial"
        )
        assert (status, other["module_sha256"]) == (0, report["module_sha256"]), "the same bytes, built twice"
    finally:
        second.end()
