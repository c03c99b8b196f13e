# SPDX-License-Identifier: GPL-2.0-or-later
"""The server with a fake workshop, as a program: `fake_server.py STATE_DIR PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

from fake_workshop import FakeWorkshop

from elivepatch.service import log
from elivepatch.service.server import serve
from elivepatch.settings import ServerSettings

if __name__ == "__main__":
    state = Path(sys.argv[1])
    state.mkdir(parents=True, exist_ok=True)
    log.set_up()
    serve(ServerSettings(state_dir=state, port=int(sys.argv[2])), FakeWorkshop(state / "runs.txt"))
