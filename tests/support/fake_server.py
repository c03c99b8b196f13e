# SPDX-License-Identifier: GPL-2.0-or-later
"""The server program with a fake backend: `fake_server.py STATE_DIR PORT [worker|front]`.

Reads its settings from the environment, as the real server does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fake_backend import FakeBackend

from elivepatch.model.errors import ElivepatchError
from elivepatch.output import Output
from elivepatch.service import log
from elivepatch.service.http.server import serve
from elivepatch.service.jobs.step_process.backend import ProcessBackend
from elivepatch.service.jobs.worker import work
from elivepatch.settings import ServerSettings, load

if __name__ == "__main__":
    state, port, part = Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "serve"
    state.mkdir(parents=True, exist_ok=True)
    log.set_up()
    flags = {"state_dir": state, "cache_dir": state, "port": port}
    settings = load(ServerSettings(), file=state / "none.toml", flags=flags, environ=os.environ)
    journal = Path(os.environ.get("FAKE_JOURNAL", state / "runs.txt"))
    try:
        if part == "worker":
            work(settings, ProcessBackend(FakeBackend(journal)))
        else:
            serve(settings, ProcessBackend(FakeBackend(journal)) if part == "serve" else None)
    except ElivepatchError as error:
        # The real command prints a code and a sentence, no traceback.
        Output().problem(error.problem)
        sys.exit(error.problem.kind.exit_status)
