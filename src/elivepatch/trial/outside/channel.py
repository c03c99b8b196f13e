# SPDX-License-Identifier: GPL-2.0-or-later
"""The two ways by which a guest is seen from outside: QEMU's monitor, and the memory that is the guest's RAM.

Both are descriptors that QEMU inherits, as all it has: a socket pair, and an anonymous file that QEMU maps as the RAM.
So we read the RAM without a word of QEMU or the guest, and the guest gets nothing that it did not have.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from elivepatch.trial.outside.qmp import Qmp

WAITS_ON = "results"
"""The serial port on which a guest waits until it was looked at: a break on it is our answer (init.sh)."""


@dataclass(slots=True, kw_only=True)
class Channel:
    """Our ends: the monitor, and the descriptor of the RAM, which has `size_bytes`."""

    qmp: Qmp
    memory: int
    size_bytes: int
    _theirs: socket.socket

    @property
    def options(self) -> Sequence[str]:
        """QEMU's options that give it its ends; the machine has to have `memory-backend=ram`."""
        ram = f"memory-backend-file,id=ram,size={self.size_bytes},mem-path=/proc/self/fd/{self.memory},share=on"
        return (
            "-object", ram,
            "-chardev", f"socket,id=monitor,fd={self._theirs.fileno()}", "-mon", "chardev=monitor,mode=control",
        )  # fmt: skip

    @property
    def descriptors(self) -> Sequence[int]:
        """The descriptors that QEMU has to inherit."""
        return (self.memory, self._theirs.fileno())

    def started(self) -> None:
        """Close our copy of QEMU's end: now that QEMU runs, its death closes the connection."""
        self._theirs.close()


@contextmanager
def open_channel(size_bytes: int) -> Iterator[Channel]:
    """Yield a new channel for a guest with this much RAM; it is closed at the end."""
    ours, theirs = socket.socketpair()
    memory = os.memfd_create("ram")
    try:
        os.ftruncate(memory, size_bytes)
        yield Channel(qmp=Qmp(ours), memory=memory, size_bytes=size_bytes, _theirs=theirs)
    finally:
        os.close(memory)
        ours.close()
        theirs.close()
