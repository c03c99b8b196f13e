# SPDX-License-Identifier: GPL-2.0-or-later
"""Equal files of several directories, kept once: each but the first is a hard link.

Files are replaced only if nobody can see it: content, owner, mode and time are the same. A program that writes to one
of these files in place changes all of them, so this is for directories that are never written to again. To replace a
file or to remove a whole directory changes no other.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 1 << 20
_READERS = 8
# The other file has as many names as its file system allows, or its directory is being removed.
_KEEP_OWN = (errno.EMLINK, errno.ENOENT)


def share_equal_files(directory: Path, others: Sequence[Path]) -> int:
    """Replace files below `directory` by links to the equal files of the same name below `others`, the first first.

    Returns how many bytes that saves. `directory` is on the file system of `others`, and no process changes it
    meanwhile. Symbolic links are not followed. Raises OSError.
    """
    # The files of an older tree are on the disk, in 98,000 places: one reader would wait for each of them.
    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        return sum(pool.map(_share_directory, _directories(directory, others)))


def own_bytes(directory: Path) -> int:
    """Return the room on the disk of the files below a directory that have no other name, and of the directories."""
    used = 0
    for place, _, names in os.walk(directory):
        used += os.lstat(place).st_blocks * 512
        for name in names:
            info = os.lstat(f"{place}/{name}")
            if info.st_nlink == 1:
                used += info.st_blocks * 512
    return used


def _directories(directory: Path, others: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """Yield each directory with those of the same name below `others` that are no links."""
    pending = [(str(directory), [str(one) for one in others if _is_directory(str(one))])]
    while pending:
        place, theirs = pending.pop()
        yield place, theirs
        with os.scandir(place) as entries:
            below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        same = ((name, [one for one in theirs if _is_directory(f"{one}/{name}")]) for name in below)
        pending += [(f"{place}/{name}", [f"{one}/{name}" for one in found]) for name, found in same if found]


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _share_directory(places: tuple[str, list[str]]) -> int:
    place, others = places
    with os.scandir(place) as entries:
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    return sum(_share(place, name, others) for name in names)


def _share(place: str, name: str, others: Sequence[str]) -> int:
    path = f"{place}/{name}"
    own = os.lstat(path)
    if not own.st_size:
        return 0
    for other in others:
        candidate = f"{other}/{name}"
        try:
            theirs = os.lstat(candidate)
            if own.st_ino == theirs.st_ino and own.st_dev == theirs.st_dev:
                return 0
            if _outside(own) == _outside(theirs) and _same_content(path, candidate, own.st_size):
                _replace_by_link(path, candidate)
                return own.st_size
        except OSError as error:
            if error.errno not in _KEEP_OWN:
                raise
    return 0


def _outside(info: os.stat_result) -> tuple[int, ...]:
    """Return all that can be seen of a file without reading it, but for its number and its names."""
    return info.st_dev, info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns


def _same_content(path: str, other: str, size: int) -> bool:
    one = os.open(path, _PLAIN)
    try:
        two = os.open(other, _PLAIN)
        try:
            return all(
                os.pread(one, piece, start) == os.pread(two, piece, start)
                for start in range(0, size, _PIECE_BYTES)
                for piece in (min(size - start, _PIECE_BYTES),)
            )
        finally:
            os.close(two)
    finally:
        os.close(one)


def _replace_by_link(path: str, other: str) -> None:
    staged = f"{path}.link-{os.getpid()}"
    os.link(other, staged, follow_symlinks=False)
    try:
        os.replace(staged, path)  # noqa: PTH105 - thousands
    except OSError:
        os.unlink(staged)  # noqa: PTH108
        raise
