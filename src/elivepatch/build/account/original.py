# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of the original object from which create-diff-object sees that certain functions must be replaced.

The tool reads the original only to compare: every byte of its output comes from the patched object. A section of
another size differs for it, without a look at the instructions (kpatch_compare_correlated_section).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from elivepatch.kernel.elf import Section

_SECTIONS_AT, _ENTRY_BYTES, _SIZE_AT = 40, 64, 32  # e_shoff, sh_size of System V ABI's headers
_NUMBER = struct.Struct("<Q")


def write_original(original: Path, sections: Iterable[Section], place: Path) -> Path:
    """Write a copy of the object `original` to `place`, with each of `sections` one byte shorter; return `place`."""
    content = bytearray(original.read_bytes())
    (start,) = _NUMBER.unpack_from(content, _SECTIONS_AT)
    for section in {one.number: one for one in sections}.values():
        if section.size:
            _NUMBER.pack_into(content, start + section.number * _ENTRY_BYTES + _SIZE_AT, section.size - 1)
    place.write_bytes(content)
    return place
