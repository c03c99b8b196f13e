# SPDX-License-Identifier: GPL-2.0-or-later
"""Access to the machine, in three parts: files below a root directory, acts that change the kernel, and the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

_TEXT_LIMIT = 16 << 20
_PIECE = 64 << 10


@dataclass(frozen=True, slots=True)
class Host:
    """The files of a machine. Paths are relative to its root directory, so that a test can have its own."""

    root: Path = Path("/")

    def path(self, relative: str) -> Path:
        """Return the path of `relative`, for example `sys/kernel/livepatch`."""
        return self.root / relative

    def read(self, relative: str, limit: int = _TEXT_LIMIT) -> bytes:
        """Return at most `limit` bytes of a file; raises OSError if it cannot be read."""
        content = bytearray()
        with self.path(relative).open("rb", buffering=0) as file:
            # In small pieces: a sysctl answers ENOMEM to a read of megabytes (proc_sys_call_handler).
            while len(content) < limit and (piece := file.read(min(_PIECE, limit - len(content)))):
                content += piece
        return bytes(content)

    def text(self, relative: str) -> str | None:
        """Return a file's text without white space at its ends, None if it is missing or may not be read."""
        try:
            return self.read(relative).decode(errors="replace").strip()
        except OSError:
            return None


class KernelActs(Protocol):
    """Acts that change the kernel. Each raises OSError with the kernel's errno; `Host` reads."""

    def load(self, descriptor: int) -> None:
        """Load the module in an open file, finit_module(2) with no parameters and no flags."""

    def unload(self, name: str) -> None:
        """Unload a module that nothing uses, delete_module(2) with O_NONBLOCK; never by force."""

    def write(self, attribute: Path, value: str) -> None:
        """Write to an attribute of /sys/kernel/livepatch."""


class Clock(Protocol):
    """Time, which a test can simulate."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def now(self) -> datetime:
        """Return the date and time, UTC."""


class RealClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def now(self) -> datetime:
        """Return the date and time, UTC."""
        return datetime.now(tz=UTC)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that a command runs on."""

    host: Host
    kernel: KernelActs
    clock: Clock

    def stamp(self) -> str:
        """Return date and time in the form of the record: UTC, ISO 8601, whole seconds."""
        return self.clock.now().isoformat(timespec="seconds")


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    from elivepatch.client.host.syscalls import RealKernel

    return Machine(Host(), RealKernel(), RealClock())
