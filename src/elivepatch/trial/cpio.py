# SPDX-License-Identifier: GPL-2.0-or-later
"""Writer of archives in cpio's `newc` format, which the kernel unpacks as its first file system.

The cpio program is not used: it copies from a directory, so the tree would have to be on disk with every time and owner
set, and a device node there needs root. The format is a header of hexadecimal numbers
(Documentation/driver-api/early-userspace/buffer-format.rst of the kernel). Equal entries give equal bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class CpioEntry:
    """A file, directory or device. `name` is relative to the root, `mode` has the type bits of stat(2)."""

    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> CpioEntry:
    """Return a directory; it must come before its content in the archive."""
    return CpioEntry(name, stat.S_IFDIR | 0o755)


def file(name: str, content: bytes, *, executable: bool = False) -> CpioEntry:
    """Return a regular file."""
    return CpioEntry(name, stat.S_IFREG | (0o755 if executable else 0o644), content)


def device(name: str, major: int, minor: int) -> CpioEntry:
    """Return a character device node."""
    return CpioEntry(name, stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[CpioEntry]) -> bytes:
    """Return the archive of `entries` in their order, padded so that another archive can follow it."""
    parts: list[bytes] = []
    for number, entry in enumerate(entries, start=1):
        parts += _member(entry, number)
    parts += _member(CpioEntry(_TRAILER, 0), 0)
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % _BLOCK)


def _member(entry: CpioEntry, number: int) -> list[bytes]:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file system (2), device itself (2), name's size, checksum
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    lead = header + name
    return [lead, bytes(-len(lead) % 4), entry.content, bytes(-len(entry.content) % 4)]
