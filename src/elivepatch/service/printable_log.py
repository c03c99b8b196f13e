# SPDX-License-Identifier: GPL-2.0-or-later
"""Clean output of tools and guests: bounded text without control sequences of terminals."""

from __future__ import annotations

import re
from pathlib import Path

# ECMA-48 control sequences (CSI ... final byte), as compilers and guests use them for colours.
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def readable(file: Path, *, limit_bytes: int) -> bytes:
    """Return the file's text as UTF-8 without control characters; above the limit, its middle is left out."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= limit_bytes:
            return _clean(stream.read(limit_bytes))
        head = stream.read(limit_bytes // 4)
        rest = limit_bytes - len(head)
        stream.seek(size - rest)
        left_out = f"\n[{size - limit_bytes} bytes left out]\n".encode()
        return _clean(head) + left_out + _clean(stream.read(rest))


def _clean(data: bytes) -> bytes:
    text = data.decode("utf-8", errors="replace")
    return _SEQUENCE.sub("", text).translate(_CONTROL).encode("utf-8")
