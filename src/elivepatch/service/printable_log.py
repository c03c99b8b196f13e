# SPDX-License-Identifier: GPL-2.0-or-later
"""Clean output of tools and guests: bounded text without control sequences of terminals or marks that reverse it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# ECMA-48 control sequences (CSI ... final byte), as compilers and guests use them for colours.
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# Marks that change the direction of what follows: a line can look like another (Unicode, UAX 9).
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0), *_DIRECTIONS) if chr(code) not in "\n\t"}


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
    return plain_text(data.decode("utf-8", errors="replace")).encode("utf-8")


def plain_text(text: str) -> str:
    """Return a text without control sequences and characters but for line ends and tabs."""
    return _SEQUENCE.sub("", text).translate(_CONTROL)


def plain_strings(value: Any) -> Any:
    """Return what JSON has with all its strings clean, keys too: it may quote a patch, a compiler or a guest."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, dict):
        return {plain_strings(key): plain_strings(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_strings(one) for one in value]
    return value
