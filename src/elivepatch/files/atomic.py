# SPDX-License-Identifier: GPL-2.0-or-later
"""Atomic publication of files and directories: after a crash a name holds the old content or the new, never a part.

The order of the steps follows rename(2) and fsync(2): the content reaches the disk first, then its name, and only then
does the call return. No other module of this project renames or links files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by a file with `content`, durably; raises OSError and leaves the old file untouched.

    `mode` is reduced by the umask, as open(2) does. A symbolic link at `path` is replaced, not followed.
    """
    staged = _stage(path, content, mode)
    try:
        staged.replace(path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_parts(path: Path, parts: Iterable[bytes], *, mode: int = 0o644) -> int:
    """Replace `path` by a file with these parts, as `write_atomic` does, and return its size in bytes."""
    staged = _stage(path, b"", mode)
    try:
        with staged.open("ab") as file:
            file.writelines(parts)
            size = file.tell()
        publish(staged, path)
    finally:
        # Its name is gone if it was published.
        staged.unlink(missing_ok=True)
    return size


def create_atomic(path: Path, content: bytes, *, mode: int = 0o600) -> bool:
    """Create `path` with `content`, durably, unless it exists; return whether this call created it.

    If several processes call this at once, exactly one gets True. `mode` is reduced by the umask. Raises OSError.
    """
    staged = _stage(path, content, mode)
    try:
        os.link(staged, path, follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        staged.unlink()
    sync_directory(path.parent)
    return True


def publish(staged: Path, place: Path) -> None:
    """Rename `staged`, a file or a whole directory, to `place`, durably; raises OSError.

    A file at `place` is replaced. If `staged` is a directory, `place` must be missing or an empty directory.
    """
    sync_tree(staged)
    staged.rename(place)
    sync_directory(place.parent)


def publish_tree(staged: Path, place: Path) -> None:
    """Rename the directory `staged`, which holds many files, to `place`, durably; raises OSError.

    As `publish`, with one syncfs(2) in place of an fsync(2) for each file: a base has 98,000 files and a
    toolchain 10,000, most of which the kernel has written back by then.
    """
    sync_filesystem(staged)
    staged.rename(place)
    sync_directory(place.parent)


def move(source: Path, target: Path) -> None:
    """Rename within a place that no other process uses yet; raises OSError. Publishing the place makes it durable."""
    source.rename(target)


def publish_new(staged: Path, place: Path) -> bool:
    """Give the file `staged` the name `place` as well, durably, unless it is taken; return whether this call did.

    Raises OSError. `staged` must be on the same file system and stays for the caller to remove.
    """
    sync_tree(staged)
    try:
        os.link(staged, place, follow_symlinks=False)
    except FileExistsError:
        return False
    sync_directory(place.absolute().parent)
    return True


def set_aside(place: Path, doomed: Path) -> None:
    """Rename `place` to `doomed`, so that nobody finds it while its files are being removed; raises OSError.

    Not durable: after a crash `place` may be back.
    """
    place.rename(doomed)


def sync_tree(path: Path) -> None:
    """Write a file, or all files and directories below a directory, through to the disk; raises OSError.

    Symbolic links are skipped: their text belongs to the directory that holds them.
    """
    if path.is_symlink():
        return
    if not path.is_dir():
        _sync(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        return
    for directory, _names, files in os.walk(path):
        for name in files:
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                _sync(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        sync_directory(Path(directory))


def sync_filesystem(path: Path) -> None:
    """Bring everything written to the file system that holds the directory `path` to the disk; raises OSError."""
    import ctypes  # a tenth of the start of `elivepatch status`, which does not need it

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Write the names in a directory through to the disk; raises OSError."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stage(path: Path, content: bytes, mode: int) -> Path:
    """Write `content` beside `path` under a name that no other process uses, and return that path."""
    staged = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(staged, _NEW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    return staged
