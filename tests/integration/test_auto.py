# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch auto` as a timer runs it: again and again, in time, never twice at once."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cve_list import CveList
from cve_server import CveServer
from host_commands import Ran, run, run_json, with_policy
from simulated_host import SimulatedHost

from elivepatch.advisory.policy import read_policy
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.client.server.api import ServerClient
from elivepatch.model.errors import ExitStatus, HostError

pytestmark = pytest.mark.integration


@pytest.fixture
def cves(tmp_path: Path) -> CveList:
    made = CveList(tmp_path / "list")
    made.add(1, "ok")
    made.add(2, "ok")
    made.add(3, "refused")
    return made


@pytest.fixture
def host(host: SimulatedHost, cves: CveList) -> SimulatedHost:
    return with_policy(host, cves)


def auto(host: SimulatedHost, *options: str) -> Ran:
    return run_json(host, "auto", *options)


def test_a_run_closes_everything_and_the_next_one_changes_nothing_in_under_five_seconds(
    host: SimulatedHost, server: CveServer
) -> None:
    ran = auto(host)
    assert (ran.status, ran.document["closed_now"]) == (0, ["CVE-2030-30001", "CVE-2030-30002"])
    *asked_for, applied = server.requests
    assert {body["priority"] for body in asked_for} == {"automatic"}, "people do not wait for a timer"
    assert applied["patches"] == asked_for[-1]["patches"], "what is applied is what was built, and its answer is there"
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


def test_a_run_that_closes_something_prints_no_progress_for_cron_to_mail(host: SimulatedHost) -> None:
    ran = run(host, "auto")
    assert (ran.status, ran.err) == (0, "")
    assert "It is live." in ran.out


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


def test_without_a_list_of_its_own_it_takes_the_servers_and_keeps_it(
    host: SimulatedHost, server: CveServer, cves: CveList, tmp_path: Path
) -> None:
    index = tmp_path / "cve.idx"
    assert run(host, "cve", "index", "--records", cves.records, "-o", index).status == 0
    server.records = index.read_bytes()
    host.put("etc/elivepatch/policy.toml", f'[[fixes]]\ndirectory = "{cves.fixes}"\n')
    assert auto(host).document["closed_now"] == ["CVE-2030-30001", "CVE-2030-30002"]
    server.fetched.clear()
    assert auto(host).document["closed_now"] == []
    assert [same for _, same in server.fetched] == [True, True]
    host.put("etc/elivepatch/client.toml", 'url = "http://127.0.0.1:9"\ntimeout_s = 1\n')
    assert run_json(host, "cve", "summary").document["funnel"]["closed"] == 2


def test_the_documents_of_an_impostor_make_no_plan(host: SimulatedHost, server: CveServer) -> None:
    server.mood = "impostor"
    ran = auto(host)
    assert (ran.status, ran.code) == (ExitStatus.TRUST, "document-signature")
    assert (host.loads, server.asked) == (0, [])


def test_each_run_reports_its_end_to_the_server(host: SimulatedHost, server: CveServer) -> None:
    host.put("proc/sys/kernel/hostname", "web-1\n")
    auto(host)
    auto(host, "--plan-only")
    auto(host)
    (live,) = host.live
    told = {"kernel": host.release, "build_id": host.build_id, "problem": "", "livepatches": [live]}
    counts = {"open": 1, "closed": 2, "needs_reboot": 1}
    assert server.reports == [
        ("/v1/hosts/web-1", told | {"result": "closed"} | counts),
        ("/v1/hosts/web-1", told | {"result": "nothing-to-do"} | counts),
    ]


def test_a_run_that_fails_is_reported_too(host: SimulatedHost, server: CveServer) -> None:
    host.refuse_load = errno.ENOEXEC
    ran = auto(host)
    assert ran.status == ExitStatus.HOST
    ((_, told),) = server.reports
    assert (told["result"], told["problem"], told["livepatches"], told["open"]) == ("failed", ran.code, [], 3)


def test_a_server_that_drips_while_it_takes_the_report_does_not_hold_the_lock(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elivepatch.client.cve.auto._REPORT_S", 0.3)
    monkeypatch.setattr(ServerClient, "report_host", lambda *_: time.sleep(30))
    started = time.monotonic()
    ran = auto(host)
    assert time.monotonic() - started < 10
    assert (ran.status, ran.document["closed_now"]) == (0, ["CVE-2030-30001", "CVE-2030-30002"])
    assert "the server took no report of this run" in ran.err


def test_a_report_that_cannot_be_made_does_not_hide_why_the_run_failed(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise HostError("state-malformed", "The record is damaged.", advice="-")

    host.refuse_load = errno.ENOEXEC
    monkeypatch.setattr("elivepatch.client.cve.auto.funnel", unreadable)
    ran = auto(host)
    assert ran.status == ExitStatus.HOST
    assert ran.code != "state-malformed"
    assert "[state-malformed]" in ran.err


def test_what_killed_runs_left_is_removed_when_it_is_old(host: SimulatedHost) -> None:
    kept = CveCache(host.root / DIRECTORY)
    kept.make(kept.directory / "sources")
    left = [kept.directory / ".records.idx.77.partial", kept.directory / "sources/.x.json.0a1b2c3d"]
    for file in left:
        file.write_bytes(b"half")
    os.utime(left[0], (0, 0))
    auto(host)
    assert [file.exists() for file in left] == [False, True]


def test_two_at_once_are_one_too_many(host: SimulatedHost) -> None:
    CveCache.make(host.root / DIRECTORY)
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
    original = ServerClient.submit

    def impatient(self: ServerClient, request: Any, **how: bool) -> str:
        if not request.check_only:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
        return original(self, request, **how)

    monkeypatch.setattr(ServerClient, "submit", impatient)
    started = time.monotonic()
    ran = auto(host)
    assert (ran.status, ran.code) == (ExitStatus.SERVICE, "time-is-up")
    assert time.monotonic() - started < 5
    assert host.live == []
    monkeypatch.undo()
    assert auto(host).document["closed_now"] == ["CVE-2030-30001", "CVE-2030-30002"]


def test_a_server_that_is_never_done_with_the_load_does_not_outlast_the_run(
    host: SimulatedHost, server: CveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = server.build

    def never_done(body: dict[str, Any]) -> str:
        made = build(body)
        server.mood = "drops" if server.count("trial") == 2 else server.mood
        return made

    monkeypatch.setattr(server, "build", never_done)
    monkeypatch.setattr("elivepatch.client.cve.auto._REPORT_S", 0.3)
    short = "elivepatch.client.cve.auto.read_policy"
    monkeypatch.setattr(short, lambda file: replace(read_policy(file), limit_s=4))
    started = time.monotonic()
    ran = auto(host)
    assert time.monotonic() - started < 15
    assert (ran.status, ran.code, host.loads) == (ExitStatus.SERVICE, "limit-reached", 0)


def test_a_server_that_is_away_is_a_failed_run_and_changes_nothing(host: SimulatedHost) -> None:
    host.put("etc/elivepatch/client.toml", 'url = "http://127.0.0.1:9"\ntimeout_s = 1\n')
    ran = auto(host)
    assert (ran.status, ran.code) == (ExitStatus.SERVICE, "server-unreachable")
    assert host.loads == 0


def test_a_policy_that_cannot_be_used_is_a_usage_error(host: SimulatedHost) -> None:
    host.put("etc/elivepatch/policy.toml", "[choos]\n")
    assert (auto(host).status, auto(host).code) == (ExitStatus.USAGE, "policy")
