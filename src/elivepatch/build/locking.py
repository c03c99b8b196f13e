# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeping two processes from making the same thing at once: the second waits, then finds it made."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elivepatch.model.progress import Event, Progress, silent


@contextmanager
def locked(path: Path, *, progress: Progress = silent, waiting_for: str = "") -> Iterator[None]:
    """Hold the lock in the file `path`, made where it is missing; tell `progress` where somebody else has it.

    The lock ends with the process, however that ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting_for:
                progress(Event(stage="lock", message=f"another process is busy with {waiting_for}; waiting for it"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
