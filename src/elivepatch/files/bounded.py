# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounded reads of files that another user can put in place: regular files up to a size, nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple


class Unusable(NamedTuple):
    """Reason for not using a file: the code of a finding, and one sentence."""

    code: str
    why: str


def read_regular(file: Path, limit: int) -> tuple[bytes, float] | Unusable:
    """Return the content and the modification time (seconds since 1970), or the reason for not using the file.

    A symbolic link is not followed and a pipe is not waited for: the user who can write there must not choose which
    file is read, or hold up the reader.
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
