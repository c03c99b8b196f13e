# SPDX-License-Identifier: GPL-2.0-or-later
"""A real livepatch from a fleet: a server that only answers, a worker beside it, PostgreSQL and an object store."""

from __future__ import annotations

import hashlib
import os
import subprocess  # noqa: TID251 - a worker runs beside its test
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from deadline import wait_until
from postgres import PROGRAMS, Postgres
from real_server import BIN, Server
from running_server import free_port
from swift import Swift, is_installed

from elivepatch.build.base.store import Base
from elivepatch.client.proof.files import proof_beside
from elivepatch.settings import ServerSettings
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.keys import PublicKey

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.extended,
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL server is installed"),
    pytest.mark.skipif(not is_installed(), reason="no Swift is installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the servers are started as other users"),
]

MEMINFO = Path(__file__).parents[2] / "demo/patches/vmlinux-meminfo.patch"


@dataclass(frozen=True)
class Fleet:
    front: Server
    worker_state: Path


@pytest.fixture(scope="module")
def fleet(settings: ServerSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    top = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        postgres, swift = stack.enter_context(Postgres(free_port())), stack.enter_context(Swift())
        for name, value in (
            swift.environment | {"ELIVEPATCH_DATABASE": postgres.url, "ELIVEPATCH_STORE": swift.url}
        ).items():
            patch.setenv(name, value)
        # The front has no toolchain, no kernel and no packages.
        front = Server(top / "front", top / "nothing", arguments=("--no-worker",))
        front.start()
        stack.callback(front.end)
        command: list[str | Path] = [
            BIN / "elivepatch-server",
            "worker",
            "--worker",
            "build-1",
            "--state",
            top / "worker",
        ]
        with (top / "worker.log").open("wb") as log:
            worker = subprocess.Popen([*command, "--cache", settings.cache_dir], stdout=log, stderr=log)
        stack.callback(worker.wait, timeout=60)
        stack.callback(worker.terminate)
        # A worker reports its kernels as soon as it is up.
        wait_until(lambda: front.get("/v1/kernels").json()["kernels"], within_s=60, every_s=0.1)
        yield Fleet(front, top / "worker")


def test_what_one_machine_is_asked_another_builds_tries_and_keeps_in_the_store(
    fleet: Fleet, base_6_1: Base, tmp_path: Path
) -> None:
    output = tmp_path / "fix.ko"
    status, report, told = fleet.front.run(
        "build", MEMINFO, "--kernel", base_6_1.release, "-o", output, "--expect", "/proc/meminfo =~ VMALLOCCHUNK"
    )
    assert status == 0, (told, report)
    trial = report["trial"]
    assert (trial["reverted"], trial["reloaded"], trial["clean_log"]) == (True, True, True)
    assert "VMALLOCCHUNK" in trial["observations"][0]["during"]
    assert hashlib.sha256(output.read_bytes()).hexdigest() == report["module_sha256"]
    key = PublicKey.from_hex(fleet.front.get("/v1/key").json()["public_key"])
    statement = verify_livepatch(proof_beside(output).read_bytes(), output.read_bytes(), [key])
    assert (statement.build_id, statement.trial.outcome) == (base_6_1.build_id, "passed")
    assert not list(fleet.worker_state.glob("*.key")), "only the front signs"
