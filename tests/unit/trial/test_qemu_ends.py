# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a guest whose watcher is killed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from deadline import wait_until

from elivepatch.process import run

WATCHER = """
import os, threading, time
from pathlib import Path
from elivepatch.process import run
from elivepatch.trial.qemu import confined

def watch():
    run([*confined("tcg"), "sh", "-c", f"echo $$ >&{end}; exec sleep 60"], pass_fds=[end])

pipe, end = os.pipe()
threading.Thread(target=watch, daemon=True).start()
print(os.read(pipe, 20).decode(), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a guest a network and a user of its own")
def test_a_guest_ends_when_its_watcher_is_killed() -> None:
    watched = run([sys.executable, "-c", WATCHER])
    assert watched.status == -9, watched.tail()
    guest = Path("/proc", watched.text.strip())
    assert watched.text.strip().isdecimal()
    wait_until(lambda: not guest.exists() or ") Z " in (guest / "stat").read_text())
