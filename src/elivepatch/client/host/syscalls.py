# SPDX-License-Identifier: GPL-2.0-or-later
"""The acts that change the running kernel, as system calls.

Python has no binding for finit_module(2). kmod's `insmod /proc/self/fd/N` was considered and rejected: it opens the
file a second time, after it was verified; it may decompress; and it hides the errno, which distinguishes a missing
signature from a wrong version, in a message. A system call through libc takes the very descriptor that was verified.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from elivepatch.model.errors import HostError

# arch/*/entry/syscalls/*.tbl and include/uapi/asm-generic/unistd.h: (finit_module, delete_module)
_NUMBERS = {
    "x86_64": (313, 176),
    "aarch64": (273, 106),
    "riscv64": (273, 106),
    "loongarch64": (273, 106),
    "ppc64le": (353, 129),
    "s390x": (344, 129),
}


class RealKernel:
    """The kernel of this machine."""

    def load(self, descriptor: int) -> None:
        """Load the module in an open file, finit_module(2) with no parameters and no flags."""
        _call(0, ctypes.c_int(descriptor), ctypes.c_char_p(b""), ctypes.c_int(0))

    def unload(self, name: str) -> None:
        """Unload a module that nothing uses, delete_module(2) with O_NONBLOCK; never by force."""
        _call(1, ctypes.c_char_p(name.encode("ascii")), ctypes.c_uint(os.O_NONBLOCK))

    def write(self, attribute: Path, value: str) -> None:
        """Write to an attribute of /sys/kernel/livepatch, all in one call: each is one request to the kernel."""
        descriptor = os.open(attribute, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, value.encode("ascii"))
        finally:
            os.close(descriptor)


def _call(which: int, *arguments: object) -> None:
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise HostError(
            "architecture",
            f"This client does not know the system calls of {machine}.",
            advice=f"Known architectures: {', '.join(sorted(_NUMBERS))}.",
        )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(_NUMBERS[machine][which]), *arguments) != 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number))
