# SPDX-License-Identifier: GPL-2.0-or-later
"""Names in another root directory, their symbolic links read as they are read there, with that directory as `/`.

The root can be hostile: no link is followed on this machine, and none leads out of the root.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_LINKS_MAX = 40


@dataclass(frozen=True, slots=True)
class Followed:
    """An existing file of a root: its `name` without links, and the `links` that led to it, relative to the root."""

    name: str
    links: tuple[str, ...]


def follow(root: Path, name: str) -> Followed | None:
    """Return the file that a name leads to inside the root, None if there is none or the links go in a circle."""
    done: list[str] = []
    pending = list(PurePosixPath(name.lstrip("/")).parts)
    links: list[str] = []
    while pending:
        part = pending.pop(0)
        if part == "..":
            done = done[:-1]  # as at `/` of any system, there is nothing above
            continue
        place = root.joinpath(*done, part)
        try:
            if not stat.S_ISLNK(place.lstat().st_mode):
                done.append(part)
                continue
            target = str(place.readlink())
        except OSError:
            return None
        links.append("/".join([*done, part]))
        if len(links) > _LINKS_MAX:
            return None
        if target.startswith("/"):
            done = []
        pending = [*PurePosixPath(target.lstrip("/")).parts, *pending]
    return Followed("/".join(done), tuple(links))
