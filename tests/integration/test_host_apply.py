# SPDX-License-Identifier: GPL-2.0-or-later
"""From source patches to a livepatch in force: a real client, a server on loopback, a simulated kernel."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_commands import Ran, run, run_json
from signing_server import STRANGER, SigningServer
from simulated_host import SimulatedHost

from elivepatch.model.build import COPIES_LIMIT
from elivepatch.model.progress import Event
from elivepatch.output import Output

pytestmark = pytest.mark.integration


@pytest.fixture
def server() -> Iterator[SigningServer]:
    with SigningServer().running() as found:
        yield found


def patch(host: SimulatedHost, name: str) -> Path:
    path = host.root / f"{name}.patch"
    path.write_text(f"--- a/{name}.c\n+++ b/{name}.c\n@@ -1 +1 @@\n-old\n+new {name}\n")
    return path


def apply(host: SimulatedHost, *names: str, options: tuple[str, ...] = ()) -> Ran:
    return run_json(host, "apply", *(patch(host, name) for name in names), *options)


def sent(server: SigningServer) -> list[str]:
    """The names of the patches in the last request, in order."""
    return [one["name"] for one in server.requests[-1]["patches"]]


def test_apply_builds_verifies_loads_and_records(host: SimulatedHost, server: SigningServer) -> None:
    ran = apply(host, "one")
    assert ran.status == 0
    assert host.live == ["elp_1"]
    assert host.store.record().set.series[0].name == "one.patch"
    assert base64.b64decode(server.requests[0]["patches"][0]["content"]).endswith(b"+new one\n")


def test_a_second_apply_carries_everything_live_in_order_and_replaces_it(
    host: SimulatedHost, server: SigningServer
) -> None:
    apply(host, "one")
    apply(host, "two", "three")
    assert sent(server) == ["one.patch", "two.patch", "three.patch"]
    assert host.live == host.modules == ["elp_2"]
    assert apply(host, "four").status == 0
    assert sent(server) == ["one.patch", "two.patch", "three.patch", "four.patch"]
    assert run(host, "rollback").status == 0
    assert host.live == ["elp_2"]


def test_the_patches_that_the_kernel_was_built_with_are_named_and_not_sent(
    host: SimulatedHost, server: SigningServer
) -> None:
    base = patch(host, "base")
    apply(host, "one", options=("--base-patch", str(base)))
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    assert server.requests[-1]["base_patches"] == [{"name": "base.patch", "sha256": digest}]
    assert sent(server) == ["one.patch"]
    apply(host, "two")
    assert server.requests[-1]["base_patches"] == []


def test_what_is_live_already_is_not_built_again(host: SimulatedHost, server: SigningServer) -> None:
    apply(host, "one", "two")
    ran = apply(host, "two", "one", "two")
    assert ran.status == 0
    assert ran.document["already_live"] is True
    assert len(server.requests) == 1


def test_after_a_rollback_only_what_is_live_again_is_carried(host: SimulatedHost, server: SigningServer) -> None:
    apply(host, "one")
    apply(host, "two")
    run(host, "rollback")
    apply(host, "three")
    assert sent(server) == ["one.patch", "three.patch"]


def test_a_dry_run_builds_and_looks_but_loads_nothing(host: SimulatedHost, server: SigningServer) -> None:
    apply(host, "one")
    dry = apply(host, "two", options=("--dry-run",))
    assert (dry.status, host.live, host.loads) == (0, ["elp_1"], 1)
    assert dry.document["loaded"] is False
    assert dry.document["livepatch"]["name"] == "elp_2"
    assert {finding["code"] for finding in dry.document["findings"]} >= {"fits", "functions", "tasks", "kernel"}
    assert run(host, "status").status == 0


def test_a_livepatch_that_stays_in_memory_is_applied_again_as_a_copy_with_another_name(
    host: SimulatedHost, server: SigningServer
) -> None:
    server.stays = True
    apply(host, "one")
    run(host, "rollback")
    assert (host.live, host.modules) == ([], ["elp_1"])
    ran = apply(host, "one")
    assert (ran.status, host.live) == (0, ["elp_3"])
    assert [one["copy"] for one in server.requests] == [0, 0, 1]
    assert "elp_1 stays in memory; the server makes a copy of it" in ran.err
    run(host, "rollback")
    assert apply(host, "one").status == 0
    assert [one["copy"] for one in server.requests[3:]] == [0, 1, 2]


def test_after_the_last_copy_only_a_reboot_helps(host: SimulatedHost, server: SigningServer) -> None:
    server.stays = True
    for _ in range(COPIES_LIMIT + 1):
        assert apply(host, "one").status == 0
        run(host, "rollback")
    ran = apply(host, "one")
    assert (ran.status, ran.code, host.live) == (6, "module-pinned", [])


def test_stack_asks_for_the_new_patches_only_and_puts_them_beside_what_is_live(
    host: SimulatedHost, server: SigningServer
) -> None:
    apply(host, "one")
    assert apply(host, "two", options=("--stack",)).status == 0
    assert sent(server) == ["two.patch"]
    assert host.live == ["elp_1", "elp_2"]
    assert apply(host, "three").status == 0
    assert sent(server) == ["one.patch", "two.patch", "three.patch"]
    assert host.live == ["elp_3"]


def test_a_livepatch_that_replaces_is_refused_if_one_beside_the_others_was_requested(
    host: SimulatedHost, server: SigningServer
) -> None:
    apply(host, "one")
    server.stacks = False
    ran = apply(host, "two", options=("--stack",))
    assert (ran.status, ran.code) == (5, "other-mode")
    assert host.live == ["elp_1"]


def test_a_source_patch_with_a_lost_text_must_be_given_again(host: SimulatedHost, server: SigningServer) -> None:
    apply(host, "one")
    host.store.path_of(host.store.record().set.series[0].digest, "patch").unlink()
    ran = apply(host, "two")
    assert (ran.status, ran.code) == (6, "source-gone")
    assert apply(host, "one", "two").status == 0
    assert sent(server) == ["one.patch", "two.patch"]


def test_a_patch_that_cannot_be_a_livepatch_ends_with_the_servers_own_words(
    host: SimulatedHost, server: SigningServer
) -> None:
    server.mood = "verdict"
    ran = apply(host, "one")
    assert (ran.status, ran.code) == (3, "data-layout")
    assert host.loads == 0


@pytest.mark.parametrize(
    ("mood", "status", "code"),
    [
        ("garbage", 4, "server-answer"),
        ("silent", 4, "server-unreachable"),
        ("dies", 4, "server-unreachable"),
        ("unsigned", 5, "unsigned"),
        ("stranger", 5, "signature"),
        ("swapped", 5, "download-digest"),
        ("other-series", 5, "other-series"),
    ],
)
def test_a_server_that_misbehaves_leaves_the_kernel_unchanged(
    host: SimulatedHost, server: SigningServer, mood: str, status: int, code: str
) -> None:
    assert apply(host, "one").status == 0
    server.mood = mood
    ran = apply(host, "two")
    assert (ran.status, ran.code) == (status, code)
    assert host.live == ["elp_1"]
    assert [one.name for one in host.store.record().set.series] == ["one.patch"]
    server.mood = "well"
    assert apply(host, "two").status == 0


@pytest.fixture
def during_build(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines to run, each in turn, once the server has the next build; each must end well."""
    waiting: list[list[str]] = []
    shown = Output.progress

    def progress(self: Output, event: Event) -> None:
        shown(self, event)
        while event.stage == "job" and waiting:
            ran = run_json(host, *waiting.pop(0))
            assert ran.status == 0, ran.out

    monkeypatch.setattr(Output, "progress", progress)
    return waiting


def test_a_rollback_does_not_wait_for_a_build_and_the_build_is_not_loaded_over_it(
    host: SimulatedHost, server: SigningServer, during_build: list[list[str]]
) -> None:
    apply(host, "one")
    apply(host, "two")
    during_build.append(["rollback", "--wait", "0"])
    ran = apply(host, "three")
    assert (ran.status, ran.code) == (6, "live-changed")
    assert "elp_2 was live, now elp_1 is" in ran.document["problem"]["message"]
    assert host.live == ["elp_1"]
    assert apply(host, "three").status == 0
    assert sent(server) == ["one.patch", "three.patch"]


def test_a_build_is_loaded_if_the_same_livepatches_are_live_after_it_as_before(
    host: SimulatedHost, server: SigningServer, during_build: list[list[str]]
) -> None:
    apply(host, "one")
    during_build += [["disable", "elp_1", "--wait", "0"], ["enable", "elp_1", "--wait", "0"]]
    ran = apply(host, "two")
    assert (ran.status, ran.document["livepatch"]["name"]) == (0, "elp_2")


def test_another_build_of_the_same_release_is_refused_before_anything_is_built(
    host: SimulatedHost, server: SigningServer
) -> None:
    server.build_id = "ab" * 20
    ran = apply(host, "one")
    assert (ran.status, ran.code) == (6, "other-build")
    assert server.requests == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sys/module/module/parameters/sig_enforce", "Y\n"),
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
    ],
)
def test_a_kernel_that_enforces_signatures_is_reported_before_anything_is_built(
    host: SimulatedHost, server: SigningServer, file: str, text: str
) -> None:
    host.put(file, text)
    for options in ((), ("--dry-run",)):
        ran = apply(host, "one", options=options)
        assert (ran.status, ran.code) == (6, "signature-needed")
        assert "elivepatch signs no modules for kernels" in ran.document["problem"]["advice"]
    assert server.requests == []


def test_a_host_that_trusts_no_server_does_not_even_build(host: SimulatedHost, server: SigningServer) -> None:
    (host.root / "etc/elivepatch/trusted.json").unlink()
    ran = apply(host, "one")
    assert (ran.status, ran.code) == (5, "not-enrolled")
    assert server.requests == []


def test_an_interruption_while_the_server_builds_changes_nothing(host: SimulatedHost, server: SigningServer) -> None:
    host.put("etc/elivepatch/client.toml", f'url = "{server.url}"\ntimeout_s = 20\n')
    server.mood = "silent"
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    ran = run(host, "apply", patch(host, "one"))
    timer.join()
    assert ran.status == 130
    assert host.loads == 0
    server.mood = "well"
    assert apply(host, "one").status == 0


@pytest.mark.parametrize(
    ("mood", "left"), [("working", "`elivepatch cancel 00000000"), ("drops", "has no job of this command")]
)
def test_a_server_that_is_never_done_is_waited_for_no_longer_than_the_limit(
    host: SimulatedHost, server: SigningServer, mood: str, left: str
) -> None:
    host.put("etc/elivepatch/client.toml", f'url = "{server.url}"\ntimeout_s = 20\nlimit_s = 600\n')
    server.mood = mood
    started = time.monotonic()
    ran = apply(host, "one", options=("--limit", "1"))
    assert time.monotonic() - started < 10
    assert (ran.status, ran.code) == (4, "limit-reached")
    assert "nothing was changed on this host" in ran.document["problem"]["message"]
    assert left in ran.document["problem"]["advice"]
    assert host.loads == 0
    server.mood = "well"
    assert apply(host, "one").status == 0


def test_a_server_that_is_never_done_ends_other_commands_too(
    host: SimulatedHost, server: SigningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELIVEPATCH_URL", server.url)
    monkeypatch.setenv("ELIVEPATCH_LIMIT_S", "1")
    server.mood = "drops"
    commands = (["check", patch(host, "one"), "--kernel", "6.1.0-50-cloud-amd64"], ["kernels"], ["enroll", server.url])
    for command in commands:
        ran = run_json(host, *command)
        assert (ran.status, ran.code) == (4, "limit-reached")


class TestEnrolment:
    @pytest.fixture
    def fresh(self, tmp_path: Path) -> SimulatedHost:
        return SimulatedHost(tmp_path / "fresh")

    @pytest.fixture
    def no_terminal(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with Path("/dev/null").open() as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            yield

    def test_with_the_right_fingerprint_the_server_is_trusted_and_remembered(
        self, fresh: SimulatedHost, server: SigningServer
    ) -> None:
        ran = run_json(fresh, "enroll", server.url, "--fingerprint", server.key.public.shown)
        assert ran.status == 0
        assert apply(fresh, "one").status == 0
        assert fresh.live == ["elp_1"]

    def test_another_fingerprint_is_refused(self, fresh: SimulatedHost, server: SigningServer) -> None:
        ran = run_json(fresh, "enroll", server.url, "--fingerprint", "ab" * 32)
        assert (ran.status, ran.code) == (5, "other-key")
        assert not (fresh.root / "etc/elivepatch/trusted.json").exists()

    @pytest.mark.parametrize(("mood", "status", "code"), [("unsigned", 5, "unsigned"), ("garbage", 4, "server-answer")])
    def test_a_server_without_a_key_cannot_be_enrolled(
        self, fresh: SimulatedHost, server: SigningServer, mood: str, status: int, code: str
    ) -> None:
        server.mood = mood
        ran = run_json(fresh, "enroll", server.url, "--fingerprint", "ab" * 32)
        assert (ran.status, ran.code) == (status, code)

    @pytest.mark.usefixtures("no_terminal")
    def test_without_a_terminal_and_without_a_fingerprint_nothing_is_trusted(
        self, fresh: SimulatedHost, server: SigningServer
    ) -> None:
        ran = run(fresh, "enroll", server.url)
        assert ran.status == 5
        assert server.key.public.shown in ran.err
        assert not (fresh.root / "etc/elivepatch/trusted.json").exists()

    @pytest.mark.parametrize(("answer", "status"), [("yes\n", 0), ("y\n", 5), ("", 5), ("no\n", 5)])
    def test_on_a_terminal_only_yes_is_yes(
        self,
        fresh: SimulatedHost,
        server: SigningServer,
        monkeypatch: pytest.MonkeyPatch,
        answer: str,
        status: int,
    ) -> None:
        leader, follower = os.openpty()
        os.write(leader, answer.encode() or b"\x04")
        with os.fdopen(follower) as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            assert run(fresh, "enroll", server.url).status == status
        os.close(leader)
        assert (fresh.root / "etc/elivepatch/trusted.json").exists() == (status == 0)

    @pytest.mark.usefixtures("no_terminal")
    def test_a_server_whose_key_has_changed_is_not_trusted_again_by_itself(
        self, host: SimulatedHost, server: SigningServer
    ) -> None:
        server.key = STRANGER
        ran = run(host, "enroll", server.url)
        assert ran.status == 5
        assert "was enrolled with another key" in ran.err
        assert run(host, "enroll", server.url, "--fingerprint", STRANGER.public.fingerprint).status == 0
        assert apply(host, "one").status == 0
