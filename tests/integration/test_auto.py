# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch auto` as a timer runs it: again and again, cut short anywhere, never twice at once."""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cve_list import CveList
from cve_server import CveServer
from host_commands import Ran, enrol, run, run_json
from simulated_host import SimulatedHost

from elivepatch.client.cve import kept as kept_files
from elivepatch.client.cve.kept import DIRECTORY, Kept
from elivepatch.client.cve.server import AdvisoryServer
from elivepatch.model.errors import ExitStatus

pytestmark = pytest.mark.integration


@pytest.fixture
def server() -> Iterator[CveServer]:
    with CveServer().running() as found:
        yield found


@pytest.fixture
def cves(tmp_path: Path) -> CveList:
    made = CveList(tmp_path / "list")
    made.add(1, "ok")
    made.add(2, "ok")
    made.add(3, "refused")
    return made


def make_host(top: Path, server: CveServer, cves: CveList) -> SimulatedHost:
    found = SimulatedHost(top)
    found.put("etc/elivepatch/client.toml", f'url = "{server.url}"\ntimeout_s = 2\n')
    found.put("etc/elivepatch/policy.toml", cves.policy.read_text())
    enrol(found, server.url)
    return found


@pytest.fixture
def host(tmp_path: Path, server: CveServer, cves: CveList, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    monkeypatch.setattr("elivepatch.client.follow.PATIENCE_S", 0.3)
    return make_host(tmp_path / "host", server, cves)


def auto(host: SimulatedHost, *options: str) -> Ran:
    return run_json(host, "auto", *options)


def settled(host: SimulatedHost) -> dict[str, Any]:
    """What a run leaves behind, without names and times that differ from run to run."""
    verdicts = Kept(host.root / DIRECTORY).verdicts(host.release).by_cve
    return {
        "live": [patch.name for entry in host.store.record().set.entries for patch in entry.series],
        "loaded": len(host.live),
        "pending": host.store.next_record(),
        "verdicts": {name: (one.patches, one.outcome, one.functions) for name, one in verdicts.items()},
        "records": (host.root / DIRECTORY / "records.idx").exists(),
    }


def test_a_run_closes_everything_and_the_next_one_changes_nothing_in_under_five_seconds(
    host: SimulatedHost, server: CveServer
) -> None:
    ran = auto(host)
    assert (ran.status, ran.document["closed_now"]) == (0, ["CVE-2030-30001", "CVE-2030-30002"])
    asked, loads, record = len(server.asked), host.loads, host.store.record()
    started = time.monotonic()
    again = auto(host)
    assert time.monotonic() - started < 5
    assert (again.status, again.document["closed_now"]) == (0, [])
    assert (len(server.asked), host.loads, host.store.record()) == (asked, loads, record)
    quiet = run(host, "auto")
    assert quiet.err == ""
    (line,) = quiet.out.splitlines()
    assert line.startswith("Nothing to do on Linux 6.1.176 (6.1.0-50-cloud-amd64, package 6.1.176-1): 2 closed, ")


def test_plan_only_changes_nothing(host: SimulatedHost, server: CveServer) -> None:
    ran = auto(host, "--plan-only")
    assert ran.status == 0
    assert ran.document["counts"]["chosen"] == 2
    assert (host.loads, server.count("trial"), host.live) == (0, 0, [])


def test_what_is_new_is_closed_by_the_next_run(host: SimulatedHost, cves: CveList) -> None:
    auto(host)
    cves.add(4, "ok")
    assert auto(host).document["closed_now"] == ["CVE-2030-30004"]
    assert len(host.live) == 1


def test_two_at_once_are_one_too_many(host: SimulatedHost) -> None:
    Kept.make(host.root / DIRECTORY)
    with (host.root / DIRECTORY / "auto.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ran = auto(host)
    assert (ran.status, ran.code) == (ExitStatus.HOST, "auto-running")
    assert auto(host).status == 0


def test_outside_of_its_window_nothing_is_done_unless_asked_now(
    host: SimulatedHost, cves: CveList, server: CveServer
) -> None:
    local = host.now().astimezone()
    window = f"{local + timedelta(hours=1):%H:%M}-{local + timedelta(hours=2):%H:%M}"
    cves.write_policy(auto=f'window = "{window}"')
    host.put("etc/elivepatch/policy.toml", cves.policy.read_text())
    ran = auto(host)
    assert (ran.status, ran.document) == (0, {"outside_window": True})
    assert server.asked == []
    host.sleep(5400)
    assert auto(host).document["closed_now"]


def test_it_waits_a_random_part_of_the_jitter_first(host: SimulatedHost, cves: CveList) -> None:
    cves.write_policy(auto="jitter_minutes = 60")
    host.put("etc/elivepatch/policy.toml", cves.policy.read_text())
    before = host.time
    auto(host, "--plan-only")
    assert 0 <= host.time - before <= 3660
    before = host.time
    auto(host, "--plan-only", "--now")
    assert host.time == before


def test_a_run_ends_in_time_and_the_next_one_goes_on(
    host: SimulatedHost, server: CveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = server.build

    def slow(body: dict[str, Any]) -> str:
        if not body["check_only"]:
            time.sleep(1.5)
        return build(body)

    monkeypatch.setattr(server, "build", slow)
    original = AdvisoryServer.submit

    def impatient(self: AdvisoryServer, request: Any) -> str:
        if not request.check_only:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
        return original(self, request)

    monkeypatch.setattr(AdvisoryServer, "submit", impatient)
    started = time.monotonic()
    ran = auto(host)
    assert (ran.status, ran.code) == (ExitStatus.SERVICE, "time-is-up")
    assert time.monotonic() - started < 5
    assert host.live == []
    monkeypatch.undo()
    assert auto(host).document["closed_now"] == ["CVE-2030-30001", "CVE-2030-30002"]


def test_a_server_that_is_away_is_a_failed_run_and_changes_nothing(host: SimulatedHost) -> None:
    host.put("etc/elivepatch/client.toml", 'url = "http://127.0.0.1:9"\ntimeout_s = 1\n')
    ran = auto(host)
    assert (ran.status, ran.code) == (ExitStatus.SERVICE, "server-unreachable")
    assert host.loads == 0


def test_a_policy_that_cannot_be_used_is_told(host: SimulatedHost) -> None:
    host.put("etc/elivepatch/policy.toml", "[choos]\n")
    assert (auto(host).status, auto(host).code) == (ExitStatus.USAGE, "policy")


class _Killed(BaseException):
    """Ends a run where it stands, past everything that catches errors."""


class _Reaper:
    """Counts the points at which a run can be cut, and cuts it at one of them."""

    def __init__(self) -> None:
        self.points = 0
        self.deadly = -1

    def pass_point(self, *_: object) -> None:
        self.points += 1
        if self.points == self.deadly:
            raise _Killed

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            self.pass_point()
            result = function(*given, **named)
            self.pass_point()
            return result

        return wrapped


def test_killed_at_any_point_and_run_again_it_ends_in_the_same_state(
    tmp_path: Path, server: CveServer, cves: CveList, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaper = _Reaper()
    for name in ("submit", "report", "download", "envelope", "sources"):
        monkeypatch.setattr(AdvisoryServer, name, reaper.around(getattr(AdvisoryServer, name)))
    monkeypatch.setattr(kept_files, "write_whole", reaper.around(kept_files.write_whole))

    def fresh(name: str) -> SimulatedHost:
        found = make_host(tmp_path / name, server, cves)
        found.before = found.after = reaper.pass_point
        return found

    calm = fresh("calm")
    assert auto(calm).status == 0
    expected, points = settled(calm), reaper.points
    assert points > 20
    for deadly in range(1, points + 1, 2):
        host = fresh(f"cut-{deadly}")
        reaper.points, reaper.deadly = 0, deadly
        with pytest.raises(_Killed):
            auto(host)
        reaper.deadly = -1
        ran = auto(host)
        assert ran.status == 0, (deadly, ran.err)
        assert settled(host) == expected, deadly
