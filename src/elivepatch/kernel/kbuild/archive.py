# SPDX-License-Identifier: GPL-2.0-or-later
"""Thin archives: lists of objects that stay files of their own. `vmlinux.a` lists those that vmlinux is linked from.

Format: that of ar(5), with `!<thin>` as its first line; the members' content is left out, their names are paths.
"""

from __future__ import annotations

import re

from elivepatch.kernel.kbuild.faults import kbuild_fault
from elivepatch.model.errors import EnvironmentFault

_MAGIC = b"!<thin>\n"
_HEADER = re.compile(rb"(?s)(.{16}).{32}([0-9]{1,10}) *`\n")
_HEADER_BYTES = 60
_TABLES = {b"/", b"/SYM64/", b"//"}
_NAMES = b"//"
# ar leaves the end of a path of fifteen characters behind the number that it writes over the name.
_LONG = re.compile(rb"/([0-9]{1,12})(?: */)?")


def thin_members(content: bytes) -> tuple[str, ...]:
    """Return the paths of the members of a thin archive, in order, as the archive has them.

    Raises EnvironmentFault with the code `kbuild-files` if it is no thin archive or is damaged.
    """
    if not content.startswith(_MAGIC):
        raise _malformed("is no thin archive")
    names = b""
    found: list[str] = []
    at = len(_MAGIC)
    while at < len(content):
        header = _HEADER.fullmatch(content[at : at + _HEADER_BYTES])
        if header is None:
            raise _malformed("has a member without a header")
        name, size = header[1].rstrip(b" "), int(header[2])
        at += _HEADER_BYTES
        if name not in _TABLES:
            found.append(_path(name, names))
            continue
        if at + size > len(content):
            raise _malformed("is truncated")
        if name == _NAMES:
            names = content[at : at + size]
        at += size + size % 2
    return tuple(found)


def _path(name: bytes, names: bytes) -> str:
    """Return the path of a member: it is in the header itself, or in the table of long names."""
    if long := _LONG.fullmatch(name):
        start = int(long[1])
        end = names.find(b"/\n", start)
        path = names[start:end] if 0 <= start < end else b""
    else:
        path = name[:-1] if name.endswith(b"/") else b""
    if not path:
        raise _malformed("has a member without a name")
    return path.decode(errors="replace")


def _malformed(what: str) -> EnvironmentFault:
    return kbuild_fault(f"The archive of the kernel's objects (vmlinux.a) {what}.")
