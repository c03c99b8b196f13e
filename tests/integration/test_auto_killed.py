# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch auto` cut short at each of its steps: the next run ends in the same state."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cve_list import CveList
from cve_server import CveServer
from host_commands import Ran, enrolled_host, run_json, with_policy
from simulated_host import SimulatedHost

from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.client.server.api import ServerClient

pytestmark = pytest.mark.integration


@pytest.fixture
def cves(tmp_path: Path) -> CveList:
    made = CveList(tmp_path / "list")
    made.add(1, "ok")
    made.add(2, "ok")
    made.add(3, "refused")
    return made


def auto(host: SimulatedHost) -> Ran:
    return run_json(host, "auto")


def settled(host: SimulatedHost) -> dict[str, Any]:
    """Return the state that a run leaves, without names and times that differ from run to run."""
    verdicts = CveCache(host.root / DIRECTORY).verdicts(host.release).by_cve
    return {
        "live": [patch.name for entry in host.store.record().set.entries for patch in entry.series],
        "loaded": len(host.live),
        "pending": host.store.next_record(),
        "verdicts": {name: (one.patches, one.outcome, one.functions) for name, one in verdicts.items()},
        "records": (host.root / DIRECTORY / "records.idx").exists(),
    }


class _Reaper:
    """Counts the steps of a run, and kills its process at one of them as a power cut would."""

    def __init__(self) -> None:
        self.points = 0
        self.deadly = -1
        self.dying: Callable[[], object] = lambda: None

    def pass_point(self, *_: object) -> None:
        self.points += 1
        if self.points == self.deadly:
            self.dying()
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            self.pass_point()
            result = function(*given, **named)
            self.pass_point()
            return result

        return wrapped


@pytest.fixture
def reaper(monkeypatch: pytest.MonkeyPatch) -> _Reaper:
    """Steps are the server's answers, every file that is put in place, and every act on the kernel."""
    made = _Reaper()
    for name in ("submit", "report", "download", "proof", "sources", "records", "report_host"):
        monkeypatch.setattr(ServerClient, name, made.around(getattr(ServerClient, name)))
    monkeypatch.setattr(Path, "replace", made.around(Path.replace))
    return made


def cut(host: SimulatedHost, reaper: _Reaper, point: int, kernel: Path) -> None:
    """Run `auto` in a process of its own that is killed at a step; the kernel goes on without it."""
    what_stays = [field.name for field in fields(host) if field.name not in {"before", "after"}]
    child = os.fork()
    if child == 0:
        reaper.points, reaper.deadly = 0, point
        reaper.dying = lambda: kernel.write_bytes(pickle.dumps({name: getattr(host, name) for name in what_stays}))
        auto(host)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), point
    assert os.WTERMSIG(status) == signal.SIGKILL
    for name, value in pickle.loads(kernel.read_bytes()).items():  # noqa: S301 - the child has just written it
        setattr(host, name, value)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_killed_at_any_step_and_run_again_it_ends_in_the_same_state(
    tmp_path: Path, server: CveServer, cves: CveList, reaper: _Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fresh(name: str) -> SimulatedHost:
        found = with_policy(enrolled_host(tmp_path / name, server.url), cves)
        found.before = found.after = reaper.pass_point
        return found

    calm = fresh("calm")
    reaper.points = 0
    assert auto(calm).status == 0
    expected, points = settled(calm), reaper.points
    assert points > 40
    for deadly in range(1, points + 1):
        host = fresh(f"cut-{deadly}")
        cut(host, reaper, deadly, tmp_path / "kernel")
        ran = auto(host)
        assert ran.status == 0, (deadly, ran.err)
        assert settled(host) == expected, deadly
    sys.stderr.write(f"\nauto was killed at each of {points} steps\n")
