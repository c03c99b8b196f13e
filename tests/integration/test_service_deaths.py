# SPDX-License-Identifier: GPL-2.0-or-later
"""A real server process that is killed or stopped while jobs run: each job is still done once."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from running_server import RunningServer

from elivepatch.service.jobs.steps import MAX_ATTEMPTS

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "state") as running:
        yield running


def test_a_job_whose_server_is_killed_while_it_builds_is_finished_once(server: RunningServer) -> None:
    job = server.ask("sleep 2")
    server.wait_for("build")
    time.sleep(0.3)
    server.kill()
    assert list((server.state / "work").iterdir()), "the killed server left its work directory behind"
    server.start()
    for name in ("module", "report", "log"):
        assert server.request("GET", f"/v1/builds/{job}/{name}").status_code == 409
    report = server.report(job)
    assert report["result"] == "success"
    module = server.request("GET", f"/v1/builds/{job}/module").content
    assert hashlib.sha256(module).hexdigest() == report["module_sha256"]
    assert (server.backend.runs("build"), server.backend.runs("trial")) == (2, 1)
    told = server.events(job)
    assert [event["event"] for event in told].count("done") == 1
    assert [event["attempt"] for event in told if "attempt" in event] == [1, 2]
    assert list((server.state / "work").iterdir()) == []


def test_a_job_whose_server_is_killed_in_the_trial_is_not_built_again(server: RunningServer) -> None:
    job = server.ask("sleep 0", expectations=[{"command": "sleep 2", "pattern": "x"}])
    server.wait_for("trial")
    server.kill()
    server.start()
    assert server.report(job)["result"] == "success"
    assert (server.backend.runs("build"), server.backend.runs("trial")) == (1, 2)


def test_a_job_that_kills_its_server_each_time_is_given_up_and_others_are_not(server: RunningServer) -> None:
    stop = threading.Event()
    # The first one keeps the server alive until all are submitted: a job starts at once.
    first = server.ask("sleep 3")
    poisonous = server.ask("kill-server-always")
    harmless = server.ask("sleep 0")
    watch = server.keep_alive(stop)
    try:
        deadline = time.monotonic() + 180
        reports: list[dict[str, Any]] = []
        while len(reports) < 3 and time.monotonic() < deadline:
            try:
                reports = [server.report(job, within_s=2) for job in (first, poisonous, harmless)]
            except (httpx2.TransportError, AssertionError):
                time.sleep(0.1)
    finally:
        stop.set()
        watch.join(timeout=10)
    assert [report["result"] for report in reports] == ["success", "error", "success"]
    assert reports[1]["problem"]["code"] == "job-crashes-server"
    assert server.backend.runs("build") == MAX_ATTEMPTS + 2


@pytest.mark.extended
def test_jobs_survive_a_server_that_is_killed_again_and_again(server: RunningServer) -> None:
    jobs = [server.ask(f"sleep 0.4\nnumber {number}") for number in range(8)]
    choice = random.Random(7)  # noqa: S311 - when to kill
    for _ in range(3):  # `make chaos` kills far more often
        time.sleep(choice.uniform(0.2, 1.2))
        server.kill()
        server.start()
    for job in jobs:
        report = server.report(job, within_s=60)
        assert report["result"] == "success"
        assert [event["event"] for event in server.events(job)].count("done") == 1
        module = server.request("GET", f"/v1/builds/{job}/module").content
        assert hashlib.sha256(module).hexdigest() == report["module_sha256"]


@pytest.mark.parametrize("patch", ["sleep 60", "sleep 60\ndeaf"])
def test_a_server_that_is_told_to_stop_does_so_within_ten_seconds_and_leaves_its_job(
    server: RunningServer, patch: str
) -> None:
    job = server.ask(patch)
    server.wait_for("build")
    with httpx2.stream(
        "GET",
        f"{server.url}/v1/builds/{job}/events",
        headers={"Authorization": f"Bearer {server.token_file.read_text().strip()}"},
        trust_env=False,
    ) as follower:
        next(follower.iter_raw())
        started = time.monotonic()
        server.terminate()
        assert server.ended_within(10) == 0
    assert time.monotonic() - started < 10
    assert "Traceback" not in server.log.read_text()
    server.start()
    server.wait_for("build", 2)
    stands = server.request("GET", f"/v1/builds/{job}").json()
    assert stands["status"] == "running"
    assert server.request("DELETE", f"/v1/builds/{job}").status_code == 200


def test_being_told_to_stop_is_no_attempt_of_the_job(server: RunningServer) -> None:
    job = server.ask("sleep 3")
    for round_number in range(1, 5):
        server.wait_for("build", round_number)
        server.terminate()
        assert server.ended_within(10) == 0
        server.start()
    assert server.report(job)["result"] == "success"
    assert [event["attempt"] for event in server.events(job) if "attempt" in event] == [1] * 5
