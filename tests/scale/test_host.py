# SPDX-License-Identifier: GPL-2.0-or-later
"""A thousand source patches live on one host: commands stay quick, and one more CVE can be closed.

The kernel is simulated and the server answers at once, so that the time is that of the client's own computation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cve_list import CveList
from cve_server import MINE, CveServer
from fake_backend import KERNEL
from host_commands import Ran, enrolled_host, run
from running_server import RunningServer
from simulated_host import SimulatedHost

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.follow import JobFollower
from elivepatch.files import atomic
from elivepatch.model.build import BuildRequest
from elivepatch.model.errors import Problem
from elivepatch.model.progress import silent
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.settings import ClientSettings

pytestmark = pytest.mark.scale

PATCHES = 1000
COMPUTATION_S = 1.0


class _AgreeableServer(CveServer):
    """A server that can make a livepatch of any series; the one that the tests share looks at each pair of patches."""

    @staticmethod
    def _judge(_patches: list[SourcePatch], _form: str) -> Problem | None:
        return None


class Crowded:
    """A host on which one livepatch carries `PATCHES` fixes, closed by one run of `elivepatch auto`."""

    def __init__(self, top: Path, server: CveServer) -> None:
        self.server = server
        self.host: SimulatedHost = enrolled_host(top / "host", server.url)
        self.cves = CveList(top / "list")
        self.cves.write_policy(f"max_functions = {2 * PATCHES}")
        self.host.put("etc/elivepatch/policy.toml", self.cves.policy.read_text())
        self.names = [self.cves.add(number, "ok") for number in range(1, PATCHES + 1)]
        self.first = run(self.host, "auto", "--json")

    def timed(self, *argv: str | Path) -> tuple[Ran, float]:
        """Run a command; return it with the seconds of processor time that it took, the server's own included."""
        started = time.process_time()
        ran = run(self.host, *argv)
        return ran, time.process_time() - started


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowded]:
    files = {f"drivers/lamp/part{number}.c": ("vmlinux",) for number in range(PATCHES + 100)}
    with _AgreeableServer(sources=replace(MINE, sources=files)).running() as server:
        yield Crowded(tmp_path_factory.mktemp("crowded"), server)


def decisions(ran: Ran) -> dict[str, str]:
    found: list[dict[str, Any]] = json.loads(ran.out)["decisions"]
    return {one["id"]: one["choice"] for one in found}


def test_a_thousand_fixes_are_asked_for_and_closed_by_one_livepatch(crowded: Crowded) -> None:
    assert crowded.first.status == 0, crowded.first.err
    assert sorted(json.loads(crowded.first.out)["closed_now"]) == crowded.names
    assert len(crowded.host.live) == 1
    assert len(crowded.host.store.record().set.series) == PATCHES
    assert len(crowded.server.requests[-1]["patches"]) == PATCHES


@pytest.mark.parametrize(
    "argv",
    [("status",), ("list",), ("cve", "summary"), ("cve", "list", "--open"), ("auto", "--plan-only"), ("auto",)],
    ids=" ".join,
)
def test_commands_stay_quick(crowded: Crowded, argv: tuple[str, ...]) -> None:
    ran, seconds = crowded.timed(*argv, "--json")
    assert ran.status == 0, ran.err
    assert seconds < COMPUTATION_S


def test_a_patch_more_is_planned_quickly(crowded: Crowded, tmp_path: Path) -> None:
    patch = tmp_path / "more.patch"
    patch.write_text("function more\n--- a/fs/more.c\n+++ b/fs/more.c\n@@ -1 +1 @@\n-dark\n+light\n")
    ran, seconds = crowded.timed("apply", "--dry-run", patch, "--json")
    assert ran.status == 0, ran.err
    assert len(json.loads(ran.out)["series"]) == len(crowded.host.store.record().set.series) + 1
    assert seconds < COMPUTATION_S


def test_the_fix_after_a_thousand_is_closed_like_any_other(crowded: Crowded, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    original = atomic.write_atomic

    def counted(path: Path, content: bytes, *, mode: int = 0o644) -> None:
        written.append(path)
        original(path, content, mode=mode)

    for room in ("livepatch.store", "cve.cache"):
        monkeypatch.setattr(f"elivepatch.client.{room}.write_atomic", counted)
    name = crowded.cves.add(PATCHES + 2, "ok")
    before = len(crowded.server.requests)
    ran = run(crowded.host, "auto", "--json")
    assert (ran.status, json.loads(ran.out)["closed_now"]) == (0, [name]), ran.err
    assert len(crowded.host.store.record().set.series) == PATCHES + 1
    assert len(crowded.server.requests) - before <= 4
    assert len(written) < 20, "files that are there are not written again: each write waits for the disk"


def test_a_real_server_takes_a_series_of_a_thousand_patches(tmp_path: Path) -> None:
    diff = "--- a/fs/f{0}.c\n+++ b/fs/f{0}.c\n@@ -1 +1 @@\n-dark\n+light\n"
    patches = (SourcePatch(f"{number}.patch", diff.format(number).encode()) for number in range(PATCHES))
    request = BuildRequest(release=KERNEL.release, series=PatchSeries(tuple(patches)), trial=True)
    with RunningServer(tmp_path / "state") as server:
        settings = ClientSettings(url=server.url, token=server.token_file.read_text().strip(), timeout_s=30)
        with ServerClient(settings) as client:
            started = time.monotonic()
            report = JobFollower(silent).follow(client, client.submit(request))
            again = client.submit(request)
    assert report.problem is None
    assert report.id == again, "the same request has the same answer"
    assert time.monotonic() - started < 30
