# SPDX-License-Identifier: GPL-2.0-or-later
"""Contents of a root: its digest, and the programs in it, found without running any.

A root can be hostile. Its symbolic links are read as the sandbox would read them, with the root as `/`; none is
followed on the host.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from elivepatch.files.digest import sha256_file
from elivepatch.files.rooted import follow
from elivepatch.model.kernel import Digest

PROGRAM_DIRECTORIES = ("usr/sbin", "usr/bin", "sbin", "bin")
"""The search path of the sandbox, below a root."""

# Different in every root, even from the same packages; none of it takes part in a build.
_VOLATILE = ("dev", "proc", "sys", "run", "tmp", "var/cache", "var/log", "var/lib/apt", "etc/apt", "etc/hostname",
             "etc/resolv.conf", "etc/machine-id", "etc/ld.so.cache", "var/lib/dpkg", "etc/shadow", "etc/shadow-",
             "etc/passwd-", "etc/group-", "etc/gshadow-")  # fmt: skip


def digest_of(root: Path) -> tuple[Digest, int]:
    """Return the digest of a root's content (names, modes, bytes) and its size in bytes."""
    total = hashlib.sha256()
    size = 0
    for path, info in _walk(root):
        name = os.fsencode(path.relative_to(root))
        if stat.S_ISLNK(info.st_mode):
            what = b"link " + os.fsencode(path.readlink())
        elif stat.S_ISREG(info.st_mode):
            size += info.st_size
            what = f"file {stat.S_IMODE(info.st_mode):o} {sha256_file(path)}".encode()
        else:
            what = f"other {info.st_mode:o}".encode()
        total.update(name + b"\0" + what + b"\n")
    return Digest(total.hexdigest()), size


def _walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    pending = [root]
    while pending:
        directory = pending.pop()
        for path in sorted(directory.iterdir()):
            name = path.relative_to(root).as_posix()
            if name in _VOLATILE or name.endswith(".pyc") or path.name == "__pycache__":
                continue
            info = path.lstat()
            yield path, info
            if stat.S_ISDIR(info.st_mode):
                pending.append(path)


def find_program(root: Path, name: str) -> str | None:
    """Return the file that the sandbox would run for a command, relative to the root; None if it has none."""
    for directory in PROGRAM_DIRECTORIES:
        inside = resolve(root, f"{directory}/{name}")
        if inside is not None:
            mode = (root / inside).lstat().st_mode
            if stat.S_ISREG(mode) and mode & 0o111:
                return inside
    return None


def resolve(root: Path, name: str) -> str | None:
    """Return the path of an existing file with all links resolved inside the root; None if it is missing."""
    found = follow(root, name)
    return found.name if found is not None else None
