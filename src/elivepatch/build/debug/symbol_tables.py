# SPDX-License-Identifier: GPL-2.0-or-later
"""File with the symbols of a module and nothing else: an eighth of the module.

The shipped module beside it has the code. The symbols are read for the block of each source file (kernel/symbols.py)
and for the name of the section that each of them is in. So the file holds the symbol table with its names, and the
headers of the sections that symbols are in, without their bytes.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence

from elivepatch.kernel.elf import SHT_NOBITS, SHT_SYMTAB_SHNDX, ElfFile, Section
from elivepatch.model.errors import EnvironmentFault

_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_MAGIC = b"\x7fELF\x02\x01\x01"
_ET_REL, _EM_X86_64, _EV_CURRENT = 1, 62, 1
_SHT_SYMTAB, _SHT_STRTAB = 2, 3
_SYMBOL_BYTES = 24
# Of the twelve numbers of two bytes that a symbol is, the fourth is its section.
_SECTION_AT, _NUMBERS = 3, 12
_FIRST_SPECIAL = 0xFF00


def symbols_alone(elf: ElfFile) -> bytes:
    """Return an ELF file with the symbols of a module; those in sections that are not loaded are undefined in it.

    Raises EnvironmentFault with the code `elf-malformed` if the module is damaged.
    """
    sections, table = elf.sections, elf.by_name.get(".symtab")
    if table is None:
        return _file([], bytes(_SYMBOL_BYTES), b"\0", first_global=1)
    if table.link >= len(sections) or any(one.kind == SHT_SYMTAB_SHNDX for one in sections):
        raise _malformed(elf, "has a symbol table of another kind than modules have")
    raw = elf.content(table)
    symbols = array("H", raw[: len(raw) - len(raw) % _SYMBOL_BYTES])
    places = symbols[_SECTION_AT::_NUMBERS]
    used = sorted(set(places))
    if any(len(sections) <= number < _FIRST_SPECIAL for number in used):
        raise _malformed(elf, "has a symbol in a section that does not exist")
    kept = [sections[number] for number in used if number < _FIRST_SPECIAL and sections[number].loaded]
    numbers = {one.number: place for place, one in enumerate(kept, 1)}
    numbers |= {number: number for number in used if number >= _FIRST_SPECIAL}
    symbols[_SECTION_AT::_NUMBERS] = array("H", [numbers.get(number, 0) for number in places])
    return _file(kept, symbols.tobytes(), elf.content(sections[table.link]), first_global=table.info)


def _file(kept: Sequence[Section], symbols: bytes, strings: bytes, *, first_global: int) -> bytes:
    names = bytearray(b"\0")
    headers = [bytes(_SECTION_HEADER.size)]

    def add(name: str, kind: int, offset: int, size: int, *, flags: int = 0, link: int = 0, unit: int = 0) -> None:
        info = first_global if kind == _SHT_SYMTAB else 0
        headers.append(_SECTION_HEADER.pack(len(names), kind, flags, 0, offset, size, link, info, 1, unit))
        names.extend(name.encode() + b"\0")

    start = _FILE_HEADER.size
    for one in kept:
        add(one.name, SHT_NOBITS, start, one.size, flags=one.flags)
    add(".symtab", _SHT_SYMTAB, start, len(symbols), link=len(headers) + 1, unit=_SYMBOL_BYTES)
    add(".strtab", _SHT_STRTAB, start + len(symbols), len(strings))
    at = start + len(symbols) + len(strings)
    add(".shstrtab", _SHT_STRTAB, at, len(names) + len(b".shstrtab\0"))
    header = _FILE_HEADER.pack(
        _MAGIC.ljust(16, b"\0"), _ET_REL, _EM_X86_64, _EV_CURRENT, 0, 0, at + len(names), 0, start, 0, 0,
        _SECTION_HEADER.size, len(headers), len(headers) - 1,
    )  # fmt: skip
    return header + symbols + strings + names + b"".join(headers)


def _malformed(elf: ElfFile, what: str) -> EnvironmentFault:
    return EnvironmentFault(
        "elf-malformed",
        f"{elf.path.name} {what}.",
        advice="The file is damaged or another tool made it; make it again.",
    )
