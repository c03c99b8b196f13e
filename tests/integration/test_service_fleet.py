# SPDX-License-Identifier: GPL-2.0-or-later
"""A server without a worker, and workers, on PostgreSQL and an object store: killed, frozen, cut off, cancelled."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from deadline import wait_until
from fake_backend import KERNEL, SOURCES
from postgres import PROGRAMS, Postgres
from running_server import RunningServer, free_port
from swift import Swift, is_installed

from elivepatch.service.db.database import open_database, retry_while_away
from elivepatch.service.db.tables import events
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.keys import PublicKey

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL server is installed"),
    pytest.mark.skipif(not is_installed(), reason="no Swift is installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the servers are started as other users"),
]


class House:
    """A front and two workers."""

    def __init__(self, top: Path, postgres: Postgres, environment: dict[str, str], stack: ExitStack) -> None:
        self._top = top
        self._stack = stack
        self._environment = environment
        self.postgres = postgres
        self.database = open_database(postgres.url)
        stack.callback(self.database.dispose)
        self.front = self._process("front", "front")
        self.workers = {name: self.worker(name) for name in ("one", "two")}
        until(lambda: self.front.request("GET", "/readyz").status_code == 200)

    def _process(self, name: str, part: str) -> RunningServer:
        environment = self._environment | {"ELIVEPATCH_WORKER": name}
        return self._stack.enter_context(RunningServer(self._top / name, environment=environment, part=part))

    def worker(self, name: str) -> RunningServer:
        return self._process(name, "worker")

    def attempts(self, job: str) -> int:
        """Number of attempts at the job."""

        def ask() -> int:
            with self.database.connect() as connection:
                told = connection.execute(sa.select(events.c.data).where(events.c.build == job)).scalars().all()
            return max((one.get("attempt", 0) for one in told), default=0)

        return retry_while_away(ask, patience_s=30)

    def holder(self, job: str) -> str:
        """Name of the worker that runs the job."""
        query = sa.text(
            "SELECT executor_id FROM dbos.workflow_status WHERE workflow_uuid = :job AND status = 'PENDING'"
        )
        with self.database.connect() as connection:
            return str(connection.execute(query, {"job": job}).scalar())

    def begin(self, patch: str) -> tuple[str, RunningServer]:
        """Ask for a build, wait until it runs, and return it and its worker."""
        job = self.front.ask(patch)
        until(lambda: self.attempts(job) == 1)
        return job, self.workers[self.holder(job)]

    def ends_once(self, job: str) -> None:
        report = self.front.report(job, within_s=40)
        assert report["result"] == "success"
        module = self.front.request("GET", f"/v1/builds/{job}/module").content
        assert hashlib.sha256(module).hexdigest() == report["module_sha256"]
        assert [event["event"] for event in self.front.events(job)].count("done") == 1


def until(condition: Callable[[], bool], *, within_s: float = 30.0) -> float:
    """Wait for a condition and return how long that took."""
    started = time.monotonic()
    wait_until(condition, within_s=within_s, every_s=0.05)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        top = tmp_path_factory.mktemp("fleet")
        postgres = stack.enter_context(Postgres(free_port()))
        swift = stack.enter_context(Swift())
        environment = swift.environment | {
            "ELIVEPATCH_DATABASE": postgres.url,
            "ELIVEPATCH_STORE": swift.url,
            "FAKE_JOURNAL": str(top / "runs.txt"),
        }
        yield House(top, postgres, environment, stack)


def test_what_workers_offer_is_offered_and_built_and_signed_by_the_server(house: House) -> None:
    kernels = house.front.request("GET", "/v1/kernels").json()["kernels"]
    assert [kernel["release"] for kernel in kernels] == [KERNEL.release]
    sources = house.front.request("GET", f"/v1/kernels/{KERNEL.release}/sources")
    assert sources.content == SOURCES.encode()
    job = house.front.ask("sleep 0\nelsewhere")
    house.ends_once(job)
    module = house.front.request("GET", f"/v1/builds/{job}/module").content
    key = PublicKey.from_hex(house.front.request("GET", "/v1/key").json()["public_key"])
    proof = house.front.request("GET", f"/v1/builds/{job}/proof").content
    assert verify_livepatch(proof, module, [key]).digest == hashlib.sha256(module).hexdigest()
    assert not list(house.workers["one"].state.glob("*.key"))
    assert house.front.request("GET", "/v1/kernels/6.9.9/sources").json()["code"] == "kernel-unknown"


def test_a_build_is_ended_on_its_worker_within_five_seconds(house: House) -> None:
    job, _ = house.begin("sleep 60\ncancelled")
    started = time.monotonic()
    house.front.request("DELETE", f"/v1/builds/{job}")
    assert house.front.report(job)["result"] == "cancelled"
    assert time.monotonic() - started < 5


def test_the_job_of_a_killed_worker_is_taken_over_within_ten_seconds(house: House) -> None:
    job, worker = house.begin("sleep 3\nkilled")
    worker.kill()
    assert until(lambda: house.attempts(job) == 2) < 10
    worker.start()
    house.ends_once(job)


def test_the_job_of_a_frozen_worker_is_taken_over_and_done_once(house: House) -> None:
    job, worker = house.begin("sleep 4\nfrozen")
    worker.signal(signal.SIGSTOP)
    try:
        assert until(lambda: house.attempts(job) == 2, within_s=25) < 10
    finally:
        worker.signal(signal.SIGCONT)
    house.ends_once(job)
    until(lambda: "worker.was-taken-for-dead" in worker.log.read_text())
    others = [house.front.ask(f"sleep 1\nafter the frost {number}") for number in range(4)]
    for other in others:
        house.ends_once(other)


def test_a_database_that_is_restarted_costs_no_job_and_is_told_as_such(house: House) -> None:
    job, _ = house.begin("sleep 4\nrestarted")
    house.postgres.stop()
    away = house.front.request("GET", f"/v1/builds/{job}")
    assert (away.status_code, away.json()["code"]) == (503, "database-away")
    assert away.headers["retry-after"]
    assert house.front.request("GET", "/readyz").json()["lacks"] == ["database"]
    assert house.front.request("GET", "/healthz").status_code == 200
    time.sleep(1)
    house.postgres.start()
    house.ends_once(job)
    assert "Traceback" not in house.front.log.read_text()
    for process, at_most in ((house.front, 2), *((worker, 8) for worker in house.workers.values())):
        lines = process.log.read_text().splitlines()
        assert sum("Connection refused" in line or "closed" in line for line in lines) <= at_most, lines


def test_two_workers_of_one_name_are_one_too_many(house: House, tmp_path: Path) -> None:
    environment = house._environment | {"ELIVEPATCH_WORKER": "one"}
    second = RunningServer(tmp_path / "second", environment=environment, part="worker")
    assert second.launch().wait(timeout=60) != 0
    assert "Another worker of the name one is running" in second.log.read_text()


def test_the_base_that_a_killed_worker_was_making_is_made_by_another_and_its_kernel_is_built_for(house: House) -> None:
    release = "6.12.99-elsewhere"
    asked = {"release": release, "distribution": "sleep 3"}
    job = house.front.request("POST", "/v1/kernels", json=asked).json()["job"]
    until(lambda: house.attempts(job) == 1)
    worker = house.workers[house.holder(job)]
    worker.kill()
    assert house.front.report(job, within_s=40)["base"]["release"] == release
    worker.start()
    house.ends_once(house.front.ask("sleep 0\nof the new kernel", kernel=release))


def test_a_worker_that_is_told_to_stop_leaves_its_job_to_the_other(house: House) -> None:
    job, worker = house.begin("sleep 3\nstopped")
    worker.terminate()
    assert worker.ended_within(10) == 0
    assert until(lambda: any("interrupted" in str(event) for event in _told(house, job))) < 5
    house.ends_once(job)
    worker.start()


def _told(house: House, job: str) -> list[object]:
    with house.database.connect() as connection:
        return list(connection.execute(sa.select(events.c.data).where(events.c.build == job)).scalars())
