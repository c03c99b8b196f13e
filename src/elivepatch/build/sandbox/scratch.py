# SPDX-License-Identifier: GPL-2.0-or-later
"""Directories of jobs: each is locked while it is used, goes afterwards, and is open to root and the builds' user."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elivepatch.build.sandbox.bubblewrap import private_to_builds
from elivepatch.files.lock import Locked, exclusive_lock

_YOUNG_S = 60.0


@contextmanager
def job_directory(top: Path) -> Iterator[Path]:
    """Yield a new directory below `top`, a place in the cache: the builds' user cannot enter the state directory."""
    top.mkdir(parents=True, exist_ok=True)
    scratch = private_to_builds(Path(tempfile.mkdtemp(prefix="job-", dir=top)))
    try:
        with exclusive_lock(scratch):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep_jobs(top: Path) -> None:
    """Remove the directories of killed processes; a living process holds a lock on its own."""
    now = time.time()
    for scratch in top.glob("job-*"):
        try:
            # One that was just made may not be locked yet.
            if now - scratch.stat().st_mtime > _YOUNG_S:
                with exclusive_lock(scratch):
                    shutil.rmtree(scratch, ignore_errors=True)
        except (Locked, FileNotFoundError):
            continue
