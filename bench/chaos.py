# SPDX-License-Identifier: GPL-2.0-or-later
"""Kill, freeze and restart servers and workers on both databases; count lost jobs, jobs done twice, and delays.

Runs real processes on loopback with a build backend that only sleeps. Writes bench/chaos.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from postgres import Postgres
from running_server import RunningServer, free_port

from elivepatch.service.db.database import open_database, retry_while_away, sqlite_url
from elivepatch.service.db.tables import builds, events

RESULT = Path(__file__).with_name("chaos.json")
RESTARTS = 10
FREEZES = 10
FREEZE_S = {"sqlite": 2.0, "postgresql": 13.0}
EVERY_S = 3.0
DEADLINE_S = 400.0
WORKERS = 5
STOPPED_AT_ONCE = 2
# The limits protect a server from people; this load is ours.
LIMITS = {"ELIVEPATCH_TENANT_LIMIT": "1000", "ELIVEPATCH_QUEUE_LIMIT": "1000", "ELIVEPATCH_REQUESTS_PER_S": "1000"}


@dataclass
class Actions:
    """Kills, freezes and restarts of one database's processes, with their times."""

    kills: int = 0
    restarts: int = 0
    freezes: int = 0
    # Jobs that ran on a worker when it was killed or frozen.
    killed: list[tuple[str, datetime]] = field(default_factory=list)
    frozen: list[tuple[str, datetime]] = field(default_factory=list)


class Deployment:
    """The processes of one round, with methods that kill, freeze and restart them."""

    def __init__(self, top: Path, stack: ExitStack) -> None:
        self.top = top
        self.stack = stack
        self.actions = Actions()
        self.front: RunningServer
        self.database: sa.Engine

    def finished(self) -> int:
        count = sa.select(sa.func.count()).select_from(builds).where(builds.c.status == "done")
        with self.database.connect() as connection:
            return int(connection.execute(count).scalar_one())

    def kill(self) -> None:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    def freeze(self) -> None:
        raise NotImplementedError


class Embedded(Deployment):
    """One server on SQLite."""

    def __init__(self, top: Path, stack: ExitStack) -> None:
        super().__init__(top, stack)
        self.front = stack.enter_context(RunningServer(top / "state", environment=LIMITS))
        self.database = open_database(sqlite_url(top / "state" / "elivepatch.db"))
        stack.callback(self.database.dispose)

    def kill(self) -> None:
        self.front.kill()
        self.actions.kills += 1
        self.front.start()

    def restart(self) -> None:
        # SQLite runs inside the server's process and ends with it.
        self.front.terminate()
        self.front.ended_within(15)
        self.actions.restarts += 1
        self.front.start()

    def freeze(self) -> None:
        self.front.signal(signal.SIGSTOP)
        time.sleep(FREEZE_S["sqlite"])
        self.front.signal(signal.SIGCONT)
        self.actions.freezes += 1


class Fleet(Deployment):
    """A server without a worker of its own, and three workers, on PostgreSQL."""

    def __init__(self, top: Path, stack: ExitStack) -> None:
        super().__init__(top, stack)
        self.postgres = stack.enter_context(Postgres(free_port()))
        self.environment = LIMITS | {
            "ELIVEPATCH_DATABASE": self.postgres.url,
            "ELIVEPATCH_STORE": f"file://{top / 'store'}",
            "FAKE_JOURNAL": str(top / "runs.txt"),
        }
        self.front = stack.enter_context(RunningServer(top / "front", environment=self.environment, part="front"))
        self.database = open_database(self.postgres.url)
        stack.callback(self.database.dispose)
        self.numbers = itertools.count(1)
        self.choice = random.Random(11)  # noqa: S311 - which worker to kill or freeze
        self.workers: dict[str, RunningServer] = {}
        self.stopped: set[str] = set()
        self.thaws: list[threading.Timer] = []
        for _ in range(WORKERS):
            self.add()
        stack.callback(self.end)

    def add(self) -> None:
        name = f"w{next(self.numbers)}"
        environment = self.environment | {"ELIVEPATCH_WORKER": name}
        worker = RunningServer(self.top / name, environment=environment, part="worker")
        worker.start()
        self.workers[name] = worker

    def end(self) -> None:
        for timer in self.thaws:
            timer.cancel()
        for worker in self.workers.values():
            worker.signal(signal.SIGCONT)
            worker.kill()

    def awake(self) -> list[str]:
        return sorted(set(self.workers) - self.stopped)

    def running_on(self, name: str) -> list[str]:
        query = sa.text(
            "SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'PENDING' AND executor_id = :name"
        )

        def ask() -> list[str]:
            with self.database.connect() as connection:
                return list(connection.execute(query, {"name": name}).scalars())

        return retry_while_away(ask, patience_s=30)

    def kill(self) -> None:
        name = self.choice.choice(self.awake())
        worker = self.workers.pop(name)
        worker.kill()
        at = datetime.now(UTC)
        self.actions.killed += [(job, at) for job in self.running_on(name)]
        self.actions.kills += 1
        self.add()

    def restart(self) -> None:
        self.postgres.stop()
        time.sleep(self.choice.uniform(0.1, 1.5))
        self.postgres.start()
        self.actions.restarts += 1

    def freeze(self) -> None:
        if len(self.stopped) >= STOPPED_AT_ONCE:
            return
        name = self.choice.choice(self.awake())
        worker = self.workers[name]
        worker.signal(signal.SIGSTOP)
        at = datetime.now(UTC)
        self.stopped.add(name)
        self.actions.frozen += [(job, at) for job in self.running_on(name)]

        def thaw() -> None:
            worker.signal(signal.SIGCONT)
            self.stopped.discard(name)

        timer = threading.Timer(FREEZE_S["postgresql"], thaw)
        timer.start()
        self.thaws.append(timer)
        self.actions.freezes += 1


def plan_actions(deployment: Deployment) -> Iterator[Callable[[], None]]:
    """Yield the next actions without end: always kills; restarts and freezes until there were enough."""
    while True:
        yield deployment.kill
        if deployment.actions.restarts < RESTARTS:
            yield deployment.restart
        if deployment.actions.freezes < FREEZES:
            yield deployment.freeze


def disturb(deployment: Deployment, jobs: int) -> None:
    """Act every few seconds until all jobs are done and every kind of action happened often enough."""
    deadline = time.monotonic() + DEADLINE_S
    for action in plan_actions(deployment):
        time.sleep(EVERY_S)
        done = retry_while_away(deployment.finished, patience_s=60)
        enough = deployment.actions.restarts >= RESTARTS and deployment.actions.freezes >= FREEZES
        if done >= jobs or time.monotonic() > deadline:
            if not enough:
                print(
                    f"  the jobs were done before every kind of action had happened often enough: {deployment.actions}",
                    flush=True,
                )
            return
        action()


def ask(deployment: Deployment, number: int, work_s: float) -> str:
    """Submit one build; repeat the request while the server restarts."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return deployment.front.ask(f"sleep {work_s}\nnumber {number}")
        except (httpx2.TransportError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def figures_of(deployment: Deployment, jobs: list[str], seconds: float) -> dict[str, Any]:
    """Wait for the last jobs and return the figures of the round."""
    results, attempts = {}, {}
    for job in jobs:
        try:
            report = deployment.front.report(job, within_s=60)
        except (AssertionError, httpx2.TransportError):
            report = {"result": None}
        results[job] = report["result"]
        attempts[job] = 0
    with deployment.database.connect() as connection:
        rows = connection.execute(sa.select(events.c.build, events.c.at, events.c.kind, events.c.data)).all()
    ends = dict.fromkeys(jobs, 0)
    begun: dict[str, list[datetime]] = {job: [] for job in jobs}
    for row in rows:
        ends[row.build] += row.kind == "done"
        if "attempt" in row.data:
            begun[row.build].append(row.at)
            attempts[row.build] = max(attempts[row.build], row.data["attempt"])
    late = {
        what: [
            min(after)
            for job, at in interrupted
            if (after := [(one - at).total_seconds() for one in begun[job] if one > at])
        ]
        for what, interrupted in (("killed", deployment.actions.killed), ("frozen", deployment.actions.frozen))
    }
    for what, waited in late.items():
        print(f"  {len(waited)} jobs of {what} workers taken over, the last after {max(waited, default=0):.1f} s")
    most = max(attempts.values())
    print(f"  {deployment.actions.freezes} freezes, at most {most} attempts of a job, {seconds:.0f} s in all")
    return {
        "jobs": len(jobs),
        "kills": deployment.actions.kills,
        "restarts": deployment.actions.restarts,
        "lost": sum(result != "success" for result in results.values()),
        "duplicated": sum(count > 1 for count in ends.values()),
        # From the kill or freeze to the start of the next attempt: waiting for a free worker counts.
        "takeover_max_s": round(max([0.0, *late["killed"], *late["frozen"]]), 2),
    }


def round_of(kind: str, jobs: int) -> dict[str, Any]:
    """Run the jobs on one database while processes are killed, and return the figures."""
    with tempfile.TemporaryDirectory(prefix="elivepatch-chaos-") as top, ExitStack() as stack:
        deployment: Deployment = (Embedded if kind == "sqlite" else Fleet)(Path(top), stack)
        work_s = 0.3 if kind == "sqlite" else 2.0
        started = time.monotonic()
        while not ready(deployment):
            time.sleep(0.2)
        asked = [ask(deployment, number, work_s) for number in range(jobs)]
        disturb(deployment, jobs)
        return figures_of(deployment, asked, time.monotonic() - started)


def ready(deployment: Deployment) -> bool:
    """Return True if the server has a worker."""
    return deployment.front.request("GET", "/readyz").status_code == 200


def main() -> int:
    """Run both rounds, print and write the figures; return 1 if a job was lost or ended twice."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    os.environ.pop("ELIVEPATCH_DATABASE", None)
    figures = {}
    for kind in ("sqlite", "postgresql"):
        if arguments.only in {None, kind}:
            figures[kind] = round_of(kind, arguments.jobs)
            print(kind, json.dumps(figures[kind]), flush=True)
    if arguments.only is None:
        RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    good = all(figure["lost"] == figure["duplicated"] == 0 for figure in figures.values())
    return 0 if good and all(figure["takeover_max_s"] < 10 for figure in figures.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
