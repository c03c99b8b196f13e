# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks between processes by flock(2): the kernel releases a lock when its holder ends, even by a kill."""

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
    """Hold the lock on the file or directory `path`; a file that is missing is created with `mode`.

    `holder` describes this process: at most 200 bytes, kept in the lock file for others to report. A directory keeps no
    text. Raises Locked if another process holds the lock for longer than `wait_s` seconds, OSError if `path` cannot be
    opened or written.
    """
    is_directory = path.is_dir()
    descriptor = os.open(path, _DIRECTORY_FLAGS) if is_directory else os.open(path, _FLAGS, mode)
    try:
        deadline = monotonic() + wait_s
        while not _taken(descriptor):
            if monotonic() >= deadline:
                raise Locked(_holder_of(descriptor))
            sleep(_LOOK_AGAIN_S)
        if not is_directory:
            # Also without a text of our own: the text of an earlier holder would name the wrong process.
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode()[:_HOLDER_BYTES], 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def made_once(path: Path, *, progress: Progress = silent, waiting_for: str = "") -> Iterator[None]:
    """Hold the lock on the file `path` while something is made that several processes may want at once.

    The second process waits without limit and then finds the result of the first. If `waiting_for` names that result,
    `progress` gets an event before the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, _FLAGS, 0o644)
    try:
        if not _taken(descriptor):
            if waiting_for:
                progress(Event(stage="lock", message=f"another process is busy with {waiting_for}; waiting for it"))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
