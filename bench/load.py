# SPDX-License-Identifier: GPL-2.0-or-later
"""One server under load: a thousand equal requests at once, a thousand followers, ten thousand polls.

Two more processes keep two cores busy, as the compilers of a build do. Writes bench/load.json.
"""

from __future__ import annotations

import json
import subprocess  # noqa: TID251 - the busy process runs beside the server
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from request_load import ask_at_once, follow_at_once, memory_mib, poll
from running_server import RunningServer

RESULT = Path(__file__).with_name("load.json")
CROWD = 1000
POLLS = 10_000
POLLS_PER_S = 200
MANY = {"ELIVEPATCH_REQUESTS_PER_S": "2000"}
# The same niceness as that of the programs that the server starts.
_BUSY = "import os; os.nice(10)\nwhile True: sum(range(10**6))"


def main() -> int:
    """Run, print and write the figures; return 1 if a target is missed."""
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
    print(json.dumps(figures, indent=2))
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    good = figures["builds"] == 1 and took[len(took) * 99 // 100] < 0.05 and figures["memory_max_mib"] < 250
    return 0 if good and not figures["equal_requests_refused"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
