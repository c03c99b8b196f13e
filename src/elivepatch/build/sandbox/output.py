# SPDX-License-Identifier: GPL-2.0-or-later
"""Output of untrusted programs, taken over as plain files of bounded size.

The output directory of a sandbox is as untrusted as the patch: a name in it can be a symbolic link to any file of the
host, a pipe that never ends, or a file of any size. No other module opens such files.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, EnvironmentFault

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 1 << 20
_SOURCE_LIMIT_BYTES = 64 << 20
_ADVICE = "A program of the build misbehaved; keep the log and examine the patch."


class OutputTooLarge(EnvironmentFault):
    """A file of the output that is larger than its reader takes."""


@contextmanager
def made_by_series(what: str) -> Iterator[None]:
    """Take output inside that a series makes as large as it likes: its size is then a fault of the series.

    Raises BuildStopped with `module-too-large`; `what` begins the sentence.
    """
    try:
        yield
    except OutputTooLarge as error:
        raise BuildStopped(problem("module-too-large", f"{what} is larger than a livepatch may be.")) from error


def take(directory: Path, name: str, *, limit_bytes: int) -> bytes:
    """Return the content of the plain file `name` (may hold slashes) below `directory`.

    Raises FileNotFoundError if it is missing, EnvironmentFault with code `sandbox-output` if it is anything but a plain
    file of at most `limit_bytes`, or if a directory on the path is not a plain directory.
    """
    handle = _open(directory, name)
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise _refused(name, "is not a plain file")
        pieces, length = [], 0
        while piece := os.read(handle, _PIECE_BYTES):
            length += len(piece)
            if length > limit_bytes:
                raise _too_large(name, limit_bytes)
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(handle)


def take_file(directory: Path, name: str, into: Path, *, limit_bytes: int) -> Path:
    """Copy a plain file as `take` reads it to `into`, which must not exist, and return `into`.

    The copy belongs to this process's user and has mode 0644. A missing file is refused too. The copy is not yet
    durable; publishing it makes it so (files.atomic).
    """
    try:
        handle = _open(directory, name)
    except FileNotFoundError:
        raise _refused(name, "is missing") from None
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise _refused(name, "is not a plain file")
        if info.st_size > limit_bytes:
            raise _too_large(name, limit_bytes)
        with into.open("xb") as file:
            # The kernel copies: a vmlinux of 100 MiB does not pass through this process's memory. No program that
            # could still change the file's size is alive by now; the size bounds the copy all the same.
            left = info.st_size
            while left and (copied := os.sendfile(file.fileno(), handle, None, left)):
                left -= copied
    finally:
        os.close(handle)
    into.chmod(0o644)
    return into


def source_text(tree: Path, name: str) -> str | None:
    """Return the text of a file of a source tree, None if it is missing or a directory.

    Old sources hold Latin-1, which maps each byte to itself. A source's own symbolic links are followed as long as
    they stay in the tree (include/dt-bindings has some). Raises EnvironmentFault with code `sandbox-output` for one
    that leads out of the tree, and for a file of more than 64 MiB.
    """
    try:
        inside = (tree / name).resolve(strict=True).relative_to(tree.resolve())
        if (tree / inside).is_dir():
            return None
        return take(tree, str(inside), limit_bytes=_SOURCE_LIMIT_BYTES).decode("latin-1")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        raise _refused(name, "is a link that leads out of the source") from error


def files_below(directory: Path, name: str = ".") -> list[str]:
    """Return the plain files below the directory `name` of `directory`, relative to `name`, sorted.

    No symbolic link is followed; links, pipes and sockets are left out. Raises EnvironmentFault with code
    `sandbox-output` if `name` is not a plain directory, FileNotFoundError if it is missing.
    """
    handle = _open(directory, name, _DIRECTORY)
    try:
        return sorted(
            posixpath.normpath(f"{below}/{one}")
            for below, _, names, opened in os.fwalk(".", dir_fd=handle, follow_symlinks=False)
            for one in names
            if stat.S_ISREG(os.stat(one, dir_fd=opened, follow_symlinks=False).st_mode)
        )
    finally:
        os.close(handle)


def _open(directory: Path, name: str, flags: int = _FILE) -> int:
    *parents, last = PurePosixPath(name).parts or (".",)
    here = os.open(directory, _DIRECTORY)
    try:
        for part in parents:
            deeper = os.open(part, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = deeper
        return os.open(last, flags, dir_fd=here)
    except FileNotFoundError:
        raise
    except OSError as error:
        # A symbolic link (ELOOP, or ENOTDIR on the path), a socket (ENXIO), a directory without permission.
        raise _refused(name, f"cannot be opened ({error.strerror})") from error
    finally:
        os.close(here)


def _refused(name: str, what: str) -> EnvironmentFault:
    return EnvironmentFault("sandbox-output", f"The sandbox's output {name} {what}.", advice=_ADVICE)


def _too_large(name: str, limit_bytes: int) -> OutputTooLarge:
    message = f"The sandbox's output {name} is larger than {limit_bytes >> 20} MiB."
    return OutputTooLarge("sandbox-output", message, advice=_ADVICE)
