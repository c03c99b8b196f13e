# SPDX-License-Identifier: GPL-2.0-or-later
"""Measurement of a row of bench.py: seconds, memory and bytes read of each run, with all programs that it starts."""

from __future__ import annotations

import ctypes
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SAMPLE_S = 0.2
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Measured:
    """A row that is being measured. Memory is the peak resident memory of this process and its descendants together."""

    runs: list[float] = field(default_factory=list)
    read_bytes: list[int] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    peak_mib: float = 0.0

    def row(self, name: str, kernel: str) -> dict[str, Any]:
        """Return the row as results.json has it."""
        found: dict[str, Any] = {
            "name": name,
            "kernel": kernel,
            "median_s": round(statistics.median(self.runs), 3),
            "runs": [round(run, 3) for run in self.runs],
            "peak_rss_mib": round(self.peak_mib, 1),
            "read_mib": round(statistics.median(self.read_bytes) / (1 << 20), 1),
        }
        if self.stages:
            names = self.stages[0]
            found["stages"] = {one: round(statistics.median(stage[one] for stage in self.stages), 3) for one in names}
        return found

    @contextmanager
    def run(self) -> Iterator[None]:
        """Measure the body of the `with` block as one more run."""
        _adopt()
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_SAMPLE_S):
                self.peak_mib = max(self.peak_mib, _resident_bytes() / (1 << 20))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        read, started = _read_bytes(), time.monotonic()
        try:
            yield
        finally:
            self.runs.append(time.monotonic() - started)
            self.read_bytes.append(_read_bytes() - read)
            ended.set()
            thread.join()


def _family() -> dict[int, tuple[int, str]]:
    """Return the parent and the state of this process and of its descendants."""
    seen = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            seen[int(entry.name)] = int(parent), state
    own = {os.getpid()}
    while found := {pid for pid, (parent, _) in seen.items() if parent in own and pid not in own}:
        own |= found
    return {pid: seen[pid] for pid in own}


def _added_up(file: str) -> int:
    """Return the family's sum of the second word of /proc/PID/`file`: resident pages of `statm`, rchar of `io`."""
    total = 0
    for pid in _family():
        try:
            total += int(Path(f"/proc/{pid}/{file}").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def _resident_bytes() -> int:
    return _added_up("statm") * _PAGE_BYTES


def _adopt() -> None:
    """Adopt orphaned descendants: bubblewrap ends without waiting for the sandbox's init.

    The kernel adds the bytes that a process read to those of the parent that waits for it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _read_bytes() -> int:
    """Return the bytes read so far by this process and its descendants, ended ones included.

    `rchar` of proc_pid_io(5): every read(2), cached or not; reads of files mapped into memory are not counted.
    """
    for pid, (parent, state) in _family().items():
        # The starting code has waited for its own children, so these are the adopted ones.
        if parent == os.getpid() and state == "Z":
            os.waitpid(pid, os.WNOHANG)
    return _added_up("io")
