# SPDX-License-Identifier: GPL-2.0-or-later
"""Likely mistakes of operators: the client reports each in one sentence, with advice and its exit status."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from host_commands import enrolled_host, run, save
from signing_server import SigningServer
from simulated_host import SimulatedHost, make_livepatch

pytestmark = pytest.mark.integration


@dataclass
class Scene:
    """A host that is enrolled with a server, and a source patch."""

    host: SimulatedHost
    server: SigningServer
    patch: Path
    cleanup: ExitStack


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("elivepatch.client.server.follow.PATIENCE_S", 0.1)
    with SigningServer().running() as server:
        host = enrolled_host(tmp_path / "host", server.url)
        patch = tmp_path / "fix.patch"
        patch.write_text("--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-old\n+new\n")
        with ExitStack() as cleanup:
            yield Scene(host, server, patch, cleanup)


def not_root(scene: Scene) -> list[str | Path]:
    scene.host.put("proc/self/status", "CapEff:\t0000000000000000\n")
    return ["apply", scene.patch]


def misspelt_file(scene: Scene) -> list[str | Path]:
    return ["apply", scene.patch.with_name("fixx.patch")]


def server_not_running(scene: Scene) -> list[str | Path]:
    return ["apply", scene.patch, "--url", "http://127.0.0.1:9"]


def not_enrolled(scene: Scene) -> list[str | Path]:
    (scene.host.root / "etc/elivepatch/trusted.json").unlink()
    return ["apply", scene.patch]


def module_of_another_host(scene: Scene) -> list[str | Path]:
    made = make_livepatch("elp_a", release="6.1.0-49-cloud-amd64", build_id="ab" * 20)
    return ["load", save(made, scene.host.root)]


def proof_not_copied(scene: Scene) -> list[str | Path]:
    module = save(make_livepatch("elp_a"), scene.host.root)
    module.with_name("elp_a.ko.intoto.jsonl").unlink()
    return ["load", module]


def kernel_updated_but_not_booted(scene: Scene) -> list[str | Path]:
    scene.server.build_id = "cd" * 20
    return ["apply", scene.patch]


def kernel_without_livepatching(scene: Scene) -> list[str | Path]:
    (scene.host.root / "sys/kernel/livepatch").rmdir()
    return ["apply", scene.patch]


def misspelt_name(scene: Scene) -> list[str | Path]:
    run(scene.host, "apply", scene.patch)
    return ["unload", "epl_1"]


def rollback_with_nothing_before(_scene: Scene) -> list[str | Path]:
    return ["rollback"]


def forgotten_after_a_reboot(scene: Scene) -> list[str | Path]:
    run(scene.host, "apply", scene.patch)
    scene.host.boot()
    other = scene.patch.with_name("other.patch")
    other.write_text("--- a/y.c\n+++ b/y.c\n@@ -1 +1 @@\n-old\n+new\n")
    return ["apply", other]


def misspelt_setting(scene: Scene) -> list[str | Path]:
    scene.host.put("etc/elivepatch/client.toml", 'ulr = "http://127.0.0.1:8440"\n')
    return ["apply", scene.patch]


def two_at_once(scene: Scene) -> list[str | Path]:
    run(scene.host, "apply", scene.patch)
    lock = scene.cleanup.enter_context((scene.host.root / "var/lib/elivepatch/lock").open("r+b"))
    fcntl.flock(lock, fcntl.LOCK_EX)
    return ["rollback", "--wait", "1"]


def a_patch_that_cannot_be_a_livepatch(scene: Scene) -> list[str | Path]:
    scene.server.mood = "verdict"
    return ["apply", scene.patch]


def an_ordinary_module(scene: Scene) -> list[str | Path]:
    return ["load", save(make_livepatch("ext4", livepatch="N"), scene.host.root)]


def a_time_that_is_none(scene: Scene) -> list[str | Path]:
    return ["apply", scene.patch, "--deadline", "-5"]


def a_module_in_place_of_a_patch(scene: Scene) -> list[str | Path]:
    return ["apply", save(make_livepatch("elp_a"), scene.host.root)]


def already_replaced(scene: Scene) -> list[str | Path]:
    run(scene.host, "apply", scene.patch)
    other = scene.patch.with_name("other.patch")
    other.write_text("--- a/y.c\n+++ b/y.c\n@@ -1 +1 @@\n-old\n+new\n")
    run(scene.host, "apply", other)
    return ["unload", "elp_1"]


def a_kernel_that_wants_signed_modules(scene: Scene) -> list[str | Path]:
    scene.host.put("sys/module/module/parameters/sig_enforce", "Y\n")
    return ["apply", scene.patch]


def a_command_of_another_tool(_scene: Scene) -> list[str | Path]:
    return ["install", "x.ko"]


MISTAKES: list[tuple[Callable[[Scene], list[str | Path]], int, str, str]] = [
    (not_root, 6, "Modules cannot be loaded: the command was run as", "sudo"),
    (misspelt_file, 2, "fixx.patch cannot be read: No such file or directory.", "source patches"),
    (server_not_running, 4, "The server at http://127.0.0.1:9 does not answer", "elivepatch-server serve"),
    (not_enrolled, 5, "This host trusts no server yet.", "elivepatch enroll"),
    (
        module_of_another_host,
        6,
        "elp_a is for release 6.1.0-49-cloud-amd64, this host runs 6.1.0-50",
        "elivepatch apply",
    ),
    (proof_not_copied, 5, "elp_a.ko.intoto.jsonl does not exist.", "--proof"),
    (kernel_updated_but_not_booted, 6, "another build of 6.1.0-50-cloud-amd64", "Boot the packaged kernel"),
    (kernel_without_livepatching, 6, "This kernel has no livepatching.", "CONFIG_LIVEPATCH=y"),
    (misspelt_name, 6, "No livepatch that is live or recorded here is called epl_1.", "elivepatch list"),
    (rollback_with_nothing_before, 6, "There is no earlier set to return to", "elivepatch history"),
    (forgotten_after_a_reboot, 6, "elp_1 is recorded for this kernel but was not loaded", "elivepatch boot"),
    (misspelt_setting, 2, "has a setting that does not exist: ulr.", "Known settings"),
    (two_at_once, 6, "is working on this host's livepatches.", "elivepatch status"),
    (a_patch_that_cannot_be_a_livepatch, 3, "changes the layout of struct task_struct", "shadow variable"),
    (an_ordinary_module, 6, "ext4 is a kernel module but not a livepatch.", "modprobe"),
    (a_time_that_is_none, 2, "Argument --deadline: '-5' is not a number of seconds", "elivepatch apply --help"),
    (a_module_in_place_of_a_patch, 2, "elp_a.ko is a module, not a source patch.", "elivepatch load"),
    (already_replaced, 6, "elp_1 is not live: it is only kept for a rollback.", "elivepatch list"),
    (a_kernel_that_wants_signed_modules, 6, "Only modules that are signed for this kernel load here", "Secure Boot"),
    (a_command_of_another_tool, 2, "There is no command 'install'", "elivepatch --help"),
]


@pytest.mark.parametrize(
    ("mistake", "status", "sentence", "advice"), MISTAKES, ids=[one[0].__name__ for one in MISTAKES]
)
def test_a_mistake_is_reported_in_one_sentence_with_the_next_step_and_changes_nothing(
    scene: Scene, mistake: Callable[[Scene], list[str | Path]], status: int, sentence: str, advice: str
) -> None:
    argv = mistake(scene)
    before, loads = list(scene.host.live), scene.host.loads
    ran = run(scene.host, *argv)
    error, *rest = [line for line in ran.err.splitlines() if line.startswith(("error: ", "hint: "))]
    assert error.startswith("error: ")
    assert sentence in error
    assert advice in rest[0]
    assert ran.status == status
    assert ran.out == ""
    assert (scene.host.live, scene.host.loads) == (before, loads)


def test_applying_the_same_patch_twice_is_no_mistake(scene: Scene) -> None:
    assert run(scene.host, "apply", scene.patch).status == 0
    again = run(scene.host, "apply", scene.patch)
    assert again.status == 0
    assert again.out == "Nothing to do: every one of these source patches is live already.\n"
