# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a file that somebody else may put in place: a regular file of bounded size and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple


class Unusable(NamedTuple):
    """Why a file cannot be used: the code of a finding, and one sentence."""

    code: str
    why: str


def read_regular(file: Path, limit: int) -> tuple[bytes, float] | Unusable:
    """Return content and modification time (seconds since 1970), or why it cannot be used.

    No link is followed and no pipe waited for: whoever writes there must not choose what is read.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return Unusable("unreadable", f"It cannot be read: {error.strerror}.")
    try:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            return Unusable("not-a-file", "It is a link, a directory or a device.")
        content = bytearray()
        while len(content) <= limit and (piece := os.read(descriptor, limit + 1 - len(content))):
            content += piece
    except OSError as error:
        return Unusable("unreadable", f"It cannot be read: {error.strerror}.")
    finally:
        os.close(descriptor)
    if len(content) > limit:
        return Unusable("too-large", f"It is larger than {limit // 1024} KiB.")
    return bytes(content), seen.st_mtime
