# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures of files from stat(2), to see without reading that a file is unchanged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elivepatch.files.digest import sha256_json

# The kernel takes a file's times from a clock that stands still for up to 10 ms (CONFIG_HZ=100): two writes within one
# tick may leave equal times.
_SETTLED_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StatSignature:
    """Values of stat(2) that change when a file is written or replaced: device, inode, size, times in ns."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @property
    def is_settled(self) -> bool:
        """Return whether the last change is old enough that a later one must have another signature."""
        return time.time_ns() - self.changed_ns > _SETTLED_NS


def stat_signature(path: Path) -> StatSignature:
    """Return the signature of the file that `path` leads to; raises OSError."""
    found = path.stat()
    return StatSignature(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def signature_of_all(paths: Iterable[Path]) -> str:
    """Return a digest of the names and signatures of the files that exist among `paths`, in any order."""
    found = []
    for path in sorted(paths):
        try:
            one = stat_signature(path)
        except FileNotFoundError:
            continue
        found.append([str(path), one.device, one.inode, one.size, one.modified_ns, one.changed_ns])
    return sha256_json(found)
