# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks between processes, by flock(2): a lock ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from elivepatch.model.progress import Event, Progress, silent

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK_AGAIN_S = 0.2
_HOLDER_BYTES = 200


class Locked(Exception):
    """Another process holds the lock. `holder` is the text that it left in the lock file, empty if it left none."""

    def __init__(self, holder: str = "") -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def exclusive_lock(
    path: Path,
    *,
    wait_s: float = 0.0,
    holder: str = "",
    mode: int = 0o600,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lock in the file or directory `path`; the file is made if it is missing.

    Raises Locked if another process holds it for longer than `wait_s` seconds, OSError if `path` cannot be opened.
    `holder` is left in the file for whoever finds it locked: at most 200 bytes.
    """
    descriptor = (
        os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if path.is_dir() else os.open(path, _FLAGS, mode)
    )
    try:
        deadline = monotonic() + wait_s
        while not _taken(descriptor):
            if monotonic() >= deadline:
                raise Locked(_holder_of(descriptor))
            sleep(_LOOK_AGAIN_S)
        if holder:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode()[:_HOLDER_BYTES], 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def made_once(path: Path, *, progress: Progress = silent, waiting_for: str = "") -> Iterator[None]:
    """Hold the lock in the file `path` while something is made, as long as another process makes it.

    The second process waits without limit, then finds it made. `progress` hears of the wait if `waiting_for` names
    what is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        if not _taken(file.fileno()):
            if waiting_for:
                progress(Event(stage="lock", message=f"another process is busy with {waiting_for}; waiting for it"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder_of(descriptor: int) -> str:
    try:
        return os.pread(descriptor, _HOLDER_BYTES, 0).decode(errors="replace")
    except OSError:  # a directory has no content
        return ""
