# SPDX-License-Identifier: GPL-2.0-or-later
"""Code of a stripped kernel, put into the file with its symbols: one file then has both, as the linker left it."""

from __future__ import annotations

import struct
from pathlib import Path

from elivepatch.kernel.elf import SHT_NOBITS, ElfFile, Section
from elivepatch.model.errors import UsageError

_SECTION_HEADERS_AT = 40  # e_shoff
_HEADER_BYTES = 64
_KIND_AT, _OFFSET_AT = 4, 24  # sh_type, sh_offset
_ALIGNMENT = 64


def add_code(symbols: Path, stripped: Path) -> None:
    """Give the sections without bytes of the file `symbols` the bytes that they have in the file `stripped`.

    Raises UsageError with the code `debug-file` if a section that takes room in memory differs in place or size, or is
    missing.
    """
    target, source = ElfFile(symbols), ElfFile(stripped)
    filled = [(one, _counterpart(one, source)) for one in target.sections if one.kind == SHT_NOBITS]
    with symbols.open("r+b") as file:
        file.seek(_SECTION_HEADERS_AT)
        (headers,) = struct.unpack("<Q", file.read(8))
        for section, other in filled:
            if other is None or other.kind == SHT_NOBITS:
                continue
            end = file.seek(0, 2)
            offset = end + -end % _ALIGNMENT
            file.write(bytes(offset - end) + source.content(other))
            header = headers + section.number * _HEADER_BYTES
            file.seek(header + _KIND_AT)
            file.write(struct.pack("<I", other.kind))
            file.seek(header + _OFFSET_AT)
            file.write(struct.pack("<Q", offset))


def _counterpart(section: Section, source: ElfFile) -> Section | None:
    other = source.by_name.get(section.name)
    if other is not None and (other.address, other.size) == (section.address, section.size):
        return other
    if section.loaded and section.size:
        raise UsageError(
            "debug-file",
            f"The section {section.name} of the debug file is not that of {source.path.name}.",
            advice="Give the debug files of exactly this kernel: of the same package version.",
        )
    return None
