# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking files out of a directory that untrusted programs wrote to.

What a sandbox leaves in its output directory is as untrusted as the patch: a name there can be a symbolic link to any
file of the host, a pipe that never ends, or a file of any size. Nothing else may open such files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from elivepatch.model.errors import EnvironmentFault

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 1 << 20


def take(directory: Path, name: str, *, limit_bytes: int) -> bytes:
    """Return the content of the plain file `name` (may hold slashes) below `directory`.

    Raises FileNotFoundError where there is none, EnvironmentFault with code `sandbox-output` where it is anything but a
    plain file of at most `limit_bytes`, or a directory on its way is not a plain directory.
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
                raise _refused(name, f"is larger than {limit_bytes >> 20} MiB")
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(handle)


def take_file(directory: Path, name: str, into: Path, *, limit_bytes: int) -> Path:
    """Copy a plain file as `take` reads it to `into`, which must not exist, and return `into`.

    A missing file is refused too.
    """
    try:
        content = take(directory, name, limit_bytes=limit_bytes)
    except FileNotFoundError:
        raise _refused(name, "is missing") from None
    with into.open("xb") as file:
        file.write(content)
    into.chmod(0o644)
    return into


def _open(directory: Path, name: str) -> int:
    *parents, last = PurePosixPath(name).parts
    here = os.open(directory, _DIRECTORY)
    try:
        for part in parents:
            deeper = os.open(part, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = deeper
        return os.open(last, _FILE, dir_fd=here)
    except FileNotFoundError:
        raise
    except OSError as error:
        # A symbolic link (ELOOP, or ENOTDIR on the way), a socket (ENXIO), a directory without permission.
        raise _refused(name, f"cannot be opened ({error.strerror})") from error
    finally:
        os.close(here)


def _refused(name: str, what: str) -> EnvironmentFault:
    return EnvironmentFault(
        "sandbox-output",
        f"What the sandbox left as {name} {what}.",
        advice="A program of the build did something it should not; keep the log and look at the patch.",
    )
