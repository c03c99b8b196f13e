# SPDX-License-Identifier: GPL-2.0-or-later
"""One server under load: a thousand equal requests at once, a thousand followers, ten thousand polls, many old jobs.

usage: load.py [ROW ...]

Rows: crowd (requests, followers and polls, while two more processes keep two cores busy, as the compilers of a build
do) and jobs (submissions to a server that keeps 50,000 finished jobs). Writes bench/load.json and keeps the figures of
rows that were not requested. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import base64
import json
import subprocess  # noqa: TID251 - the busy process runs beside the server
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import httpx2
from fake_backend import KERNEL
from job_history import add_done_jobs
from request_load import ask_at_once, follow_at_once, memory_mib, poll
from running_server import RunningServer

from elivepatch.service.state_directory import DATABASE_FILE

RESULT = Path(__file__).with_name("load.json")
CROWD = 1000
POLLS = 10_000
POLLS_PER_S = 200
JOBS = 50_000
SUBMISSIONS = 100
MANY = {"ELIVEPATCH_REQUESTS_PER_S": "2000"}
# The same niceness as that of the programs that the server starts.
_BUSY = "import os; os.nice(10)\nwhile True: sum(range(10**6))"


Figures = dict[str, float]


def main() -> int:
    """Run, print and write the figures; return 1 if a target is missed."""
    rows = {"crowd": crowd, "jobs": many_jobs}
    wanted = sys.argv[1:] or list(rows)
    if unknown := sorted(set(wanted) - rows.keys()):
        sys.exit(f"no such row: {unknown[0]}")
    figures: Figures = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    missed: list[str] = []
    for name in wanted:
        measured, targets = rows[name]()
        figures |= measured
        missed += [key for key, most in targets.items() if measured[key] > most]
    print(json.dumps(figures, indent=2))
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    for key in missed:
        print(f"target missed: {key}", file=sys.stderr)
    return 1 if missed else 0


def crowd() -> tuple[Figures, Figures]:
    """Return the figures of a crowd of clients, and the most that each with a target may be."""
    with (
        tempfile.TemporaryDirectory(prefix="elivepatch-load-") as top,
        RunningServer(Path(top) / "state", environment=MANY) as server,
    ):
        started = time.monotonic()
        answers = ask_at_once(server, b"sleep 1\nof a thousand", CROWD)
        asked_s = time.monotonic() - started
        server.report(answers[0][1])
        builds = server.backend.runs("build")
        followed = follow_at_once(server, server.ask("sleep 6\nfollowed"), CROWD)
        job = server.ask(f"sleep {POLLS / POLLS_PER_S + 30}\npolled")
        server.wait_for("build", builds + 2)
        busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(2)]
        try:
            took = poll(server, job, polls=POLLS, per_s=POLLS_PER_S)
        finally:
            for process in busy:
                process.kill()
                process.wait()
        figures = {
            "equal_requests": len(answers),
            "equal_requests_refused": sum(status not in {200, 202} for status, _ in answers),
            "equal_requests_s": round(asked_s, 2),
            "builds": builds,
            "followers": len(followed),
            "followers_told_the_end": sum(stream.count(b"event: done") for stream in followed),
            "polls": len(took),
            "polls_per_s": POLLS_PER_S,
            "poll_p50_ms": round(took[len(took) // 2] * 1000, 1),
            "poll_p99_ms": round(took[len(took) * 99 // 100] * 1000, 1),
            "poll_max_ms": round(took[-1] * 1000, 1),
            "memory_max_mib": round(memory_mib(server)),
        }
    return figures, {"equal_requests_refused": 0, "builds": 1, "poll_p99_ms": 50, "memory_max_mib": 250}


def many_jobs() -> tuple[Figures, Figures]:
    """Return the time of a submission, new and repeated, on a server with few and with many finished jobs."""
    few, many = _submissions(1), _submissions(JOBS)
    figures = {"jobs_kept": JOBS, **many, **{f"{name}_of_few_jobs": figure for name, figure in few.items()}}
    return figures, {"submit_p50_ms": 50, "submit_again_p50_ms": 50, "jobs_memory_max_mib": 300}


def _submissions(jobs: int) -> Figures:
    with tempfile.TemporaryDirectory(prefix="elivepatch-load-") as top:
        server = RunningServer(Path(top) / "state", environment=MANY)
        with server:
            job = server.ask("sleep 0\nthe first")
            server.report(job)
            server.terminate()
            server.ended_within(30)
        add_done_jobs(server.state / DATABASE_FILE, job, jobs)
        with server, server.client() as client:
            new = sorted(_submit(client, f"sleep 0\nnumber {number}") for number in range(SUBMISSIONS))
            again = sorted(_submit(client, "sleep 0\nthe first") for _ in range(SUBMISSIONS))
            memory = memory_mib(server)
    return {
        "submit_p50_ms": round(new[len(new) // 2], 1),
        "submit_p99_ms": round(new[len(new) * 99 // 100], 1),
        "submit_again_p50_ms": round(again[len(again) // 2], 1),
        "jobs_memory_max_mib": round(memory),
    }


def _submit(client: httpx2.Client, patch: str) -> float:
    """Submit one build over an open connection and return the milliseconds until the answer."""
    content = base64.b64encode(patch.encode()).decode()
    body = {"kernel": KERNEL.release, "patches": [{"name": "fix.patch", "content": content}]}
    started = time.monotonic()
    client.post("/v1/builds", json=body).raise_for_status()
    return (time.monotonic() - started) * 1000


if __name__ == "__main__":
    raise SystemExit(main())
