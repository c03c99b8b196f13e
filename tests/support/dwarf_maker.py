# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug information written byte by byte: units of each version of DWARF, with names in each form."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from elf_maker import SECTION, Made

STRING, STRP, LINE_STRP, STRX, STRX1, UDATA, DATA4, IMPLICIT = 0x08, 0x0E, 0x1F, 0x1A, 0x25, 0x0F, 0x06, 0x21
NAME, BASE, LANGUAGE, LOW_PC = 0x03, 0x72, 0x13, 0x11


def number(value: int) -> bytes:
    """Return a number in LEB128."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))


@dataclass
class Dwarf:
    """Debug information in the making. In a `relocatable` file the offsets are only in relocations, as gas leaves it.

    Each unit has abbreviations of its own; that of its first entry is not the first of them.
    """

    version: int = 5
    wide: bool = False
    relocatable: bool = True
    info: bytearray = field(default_factory=bytearray)
    abbreviations: bytearray = field(default_factory=bytearray)
    strings: bytearray = field(default_factory=lambda: bytearray(b"first\0"))
    offsets: bytearray = field(default_factory=lambda: bytearray(8))
    places: list[tuple[int, str, int]] = field(default_factory=list)

    def offset(self, at: int, section: str, value: int) -> bytes:
        """Return an offset into another section, which stands at `at` of .debug_info."""
        if self.relocatable:
            self.places.append((at, section, value))
            value = 0
        return struct.pack("<Q" if self.wide else "<I", value)

    def unit(self, name: str, form: int) -> Dwarf:
        """Add a unit."""
        start = len(self.info) + (12 if self.wide else 4)
        table = len(self.abbreviations)
        self.abbreviations += number(1) + number(0x24) + b"\0" + b"".join(map(number, (NAME, STRP, 0x0B, 0x0B, 0, 0)))
        # The values before the name: a constant in the abbreviation, a number, four bytes.
        before = number(LANGUAGE) + number(IMPLICIT) + number(29) + bytes((0x25, UDATA, 0x10, DATA4))
        behind = bytes((BASE, 0x17)) * (form in {STRX, STRX1})
        named = number(NAME) + number(form)
        self.abbreviations += number(300) + number(0x11) + b"\1" + before + named + behind + b"\0\0\0"
        unit = bytearray(struct.pack("<H", self.version))
        if self.version == 5:
            unit += b"\1\10"
        unit += self.offset(start + len(unit), ".debug_abbrev", table)
        if self.version < 5:
            unit += b"\10"
        unit += number(300) + number(70000) + b"\1\2\3\4"
        text, at = name.encode() + b"\0", len(self.strings)
        if form == STRING:
            unit += text
        else:
            self.strings += text
        if form in {STRP, LINE_STRP}:
            unit += self.offset(start + len(unit), ".debug_str" if form == STRP else ".debug_line_str", at)
        elif form in {STRX, STRX1}:
            index = (len(self.offsets) - 8) // (8 if self.wide else 4)
            self.offsets += struct.pack("<Q" if self.wide else "<I", at)
            unit += number(index) if form == STRX else bytes((index,))
            unit += self.offset(start + len(unit), ".debug_str_offsets", 8)
        unit += b"\0"
        length = struct.pack("<IQ", 0xFFFFFFFF, len(unit)) if self.wide else struct.pack("<I", len(unit))
        self.info += length + unit
        return self

    def made(self) -> Made:
        """Return the file."""
        made = Made(kind=1 if self.relocatable else 2)
        made.section(".debug_info", bytes(self.info), flags=0)
        for name, content in (
            (".debug_abbrev", self.abbreviations), (".debug_str", self.strings), (".debug_line_str", self.strings),
            (".debug_str_offsets", self.offsets),
        ):  # fmt: skip
            made.section(name, bytes(content), flags=0)
        symbols: dict[str, int] = {}
        for at, section, value in self.places:
            if section not in symbols:
                symbols[section] = made.symbol("", section, kind=SECTION)
            made.relocation(".debug_info", at, symbols[section], kind=10, addend=value)
        return made
