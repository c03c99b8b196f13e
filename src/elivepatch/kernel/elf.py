# SPDX-License-Identifier: GPL-2.0-or-later
"""Reader of the kernel's ELF files: sections, symbols, relocations, notes, modinfo.

Tables are unpacked in one go: vmlinux has 200,000 symbols, and an object with a section for each function has
thousands of sections, for which general readers need seconds (docs/adr/0013). Formats: System V ABI, "Object Files";
x86-64 psABI for relocations.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from elivepatch.model.errors import EnvironmentFault

_IDENT = b"\x7fELF\x02\x01"  # ELFCLASS64, ELFDATA2LSB
_HEADER = struct.Struct("<40xQ10xHHH")  # e_shoff, e_shentsize, e_shnum, e_shstrndx
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_NOTE = struct.Struct("<III")
_NT_GNU_BUILD_ID = 3
_ET_REL = 1
_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR, _SHF_MERGE, _SHF_STRINGS, _SHF_COMPRESSED = 0x1, 0x2, 0x4, 0x10, 0x20, 0x800
_SHN_UNDEF = 0
_SHN_LORESERVE = 0xFF00
_SHN_XINDEX = 0xFFFF
_INFORMATION = (".debug_info", ".zdebug_info")
_NAME_LIMIT = 2048  # KSYM_NAME_LEN is 512; without a limit, a small file could expand to gigabytes of names

SHT_NULL, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_GROUP, SHT_SYMTAB_SHNDX = 0, 4, 7, 8, 17, 18
TYPE_NOTYPE, TYPE_OBJECT, TYPE_FUNC, TYPE_SECTION, TYPE_FILE = range(5)
BIND_LOCAL, BIND_GLOBAL, BIND_WEAK = range(3)

R_X86_64_64, R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_32, R_X86_64_32S, R_X86_64_PC64 = 1, 2, 4, 10, 11, 24
RELOCATION_BYTES = {R_X86_64_64: 8, R_X86_64_PC64: 8, R_X86_64_PC32: 4, R_X86_64_PLT32: 4, R_X86_64_32: 4,
                    R_X86_64_32S: 4}  # fmt: skip
"""Bytes that a relocation fills in, for each type that kernel objects use."""


class Section(NamedTuple):
    """A section header: `kind` is sh_type, `flags` is sh_flags, `unit` is sh_entsize, unchanged."""

    number: int
    name: str
    kind: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    flags: int
    unit: int = 0

    @property
    def executable(self) -> bool:
        """True if the section holds code."""
        return bool(self.flags & _SHF_EXECINSTR)

    @property
    def writable(self) -> bool:
        """True if the section holds data that code may change."""
        return bool(self.flags & _SHF_WRITE)

    @property
    def loaded(self) -> bool:
        """True if the section takes room in memory."""
        return bool(self.flags & _SHF_ALLOC)

    @property
    def merged(self) -> bool:
        """True if the linker may share equal entries of the section: strings and constants."""
        return bool(self.flags & _SHF_MERGE)

    @property
    def compressed(self) -> bool:
        """True if the bytes of the section are compressed."""
        return bool(self.flags & _SHF_COMPRESSED)

    @property
    def strings(self) -> bool:
        """True if the entries of the section are strings."""
        return bool(self.flags & _SHF_STRINGS)


class Symbol(NamedTuple):
    """An entry of .symtab; `section` is an index, 0 if the symbol is undefined, 0xfff1 if it is absolute."""

    number: int
    name: str
    value: int
    size: int
    kind: int
    bind: int
    section: int

    @property
    def defined(self) -> bool:
        """True if the symbol is in one of this file's sections."""
        return self.section != _SHN_UNDEF and self.section < _SHN_LORESERVE


class Relocation(NamedTuple):
    """An entry of a .rela section; `offset` counts from the start of the section that it applies to."""

    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True)
class ElfFile:
    """A 64-bit little-endian ELF file, mapped into memory.

    Every property raises EnvironmentFault with the code `elf-malformed` if the file is damaged.
    """

    path: Path

    @cached_property
    def data(self) -> mmap.mmap:
        """The bytes of the file."""
        with self.path.open("rb") as file:
            if self.path.stat().st_size == 0:
                raise _malformed(self.path, "is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All section headers in order."""
        headers, names_at = self._section_headers()
        if not headers:
            return ()
        if names_at >= len(headers):
            raise _malformed(self.path, "has sections without names")
        _, _, _, _, names_offset, names_size, *_ = headers[names_at]
        names = self.data[names_offset : names_offset + names_size]
        size, found = len(self.data), []
        for index, (name, kind, flags, address, offset, length, link, info, _, unit) in enumerate(headers):
            text = self._text(names, name, "a section")
            if kind != SHT_NOBITS and offset + length > size:
                raise _malformed(self.path, f"is truncated in section {text}")
            found.append(Section(index, text, kind, address, offset, length, link, info, flags, unit))
        return tuple(found)

    def _section_headers(self) -> tuple[list[tuple[int, ...]], int]:
        """Return the entries of the section header table and the index of the section with their names."""
        data = self.data
        if len(data) < _HEADER.size or data[: len(_IDENT)] != _IDENT:
            raise _malformed(self.path, "is not a 64-bit little-endian ELF file")
        start, entry_size, count, names_at = _HEADER.unpack_from(data)
        if not start:
            return [], 0
        if entry_size != _SECTION.size or start + _SECTION.size > len(data):
            raise _malformed(self.path, "has no section table at the place that its header gives")
        # A number too large for the header is in the first entry of the table (System V ABI, "Sections").
        _, _, _, _, _, many, link, *_ = _SECTION.unpack_from(data, start)
        count, names_at = count or many, link if names_at == _SHN_XINDEX else names_at
        end = start + count * _SECTION.size
        if end > len(data):
            raise _malformed(self.path, "is truncated in its section table")
        return list(_SECTION.iter_unpack(data[start:end])), names_at

    def _text(self, names: bytes, start: int, whose: str) -> str:
        end = names.find(b"\0", start, start + _NAME_LIMIT)
        if end < 0:
            raise _malformed(self.path, f"has {whose} whose name has no end")
        return names[start:end].decode(errors="replace")

    @cached_property
    def by_name(self) -> dict[str, Section]:
        """The last section of each name."""
        return {section.name: section for section in self.sections}

    def content(self, section: Section) -> bytes:
        """Return the bytes of a section, empty if it takes no room in the file."""
        if section.kind == SHT_NOBITS:
            return b""
        return self.data[section.offset : section.offset + section.size]

    def part(self, section: Section, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` of a section on, fewer at its end: vmlinux has 20 MiB of code to copy."""
        if section.kind == SHT_NOBITS or start < 0:
            return b""
        first = section.offset + start
        return self.data[first : min(first + size, section.offset + section.size)]

    def named(self, name: str) -> bytes:
        """Return the bytes of the section `name`, empty if the file has no such section."""
        section = self.by_name.get(name)
        return self.content(section) if section else b""

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """All entries of .symtab in order; empty if the file has no symbol table."""
        table = self.by_name.get(".symtab")
        if table is None:
            return ()
        try:
            names = self.content(self.sections[table.link])
        except IndexError as error:
            raise _malformed(self.path, "has a symbol table without names") from error
        extended = self._extended_indices()
        found, count = [], len(self.sections)
        raw = self.content(table)
        raw = raw[: len(raw) - len(raw) % _SYMBOL.size]
        for index, (name, info, _other, section, value, size) in enumerate(_SYMBOL.iter_unpack(raw)):
            if section == _SHN_XINDEX and index < len(extended):
                section = extended[index]
            text = self._text(names, name, "a symbol")
            if count <= section < _SHN_LORESERVE:
                raise _malformed(self.path, "has a symbol in a section that does not exist")
            found.append(Symbol(index, text, value, size, info & 0xF, info >> 4, section))
        return tuple(found)

    def _extended_indices(self) -> tuple[int, ...]:
        for section in self.sections:
            if section.kind == SHT_SYMTAB_SHNDX:
                return struct.unpack(f"<{section.size // 4}I", self.content(section)[: section.size // 4 * 4])
        return ()

    def relocations(self, section: Section) -> Iterator[Relocation]:
        """Yield the relocations that apply to `section`."""
        for table in self._relocation_tables.get(section.number, ()):
            yield from self.entries(table)

    def entries(self, table: Section) -> Iterator[Relocation]:
        """Yield the entries of a .rela section."""
        raw = self.content(table)
        for offset, info, addend in _RELA.iter_unpack(raw[: len(raw) - len(raw) % _RELA.size]):
            if info >> 32 >= len(self.symbols):
                raise _malformed(self.path, "has a relocation to a symbol that does not exist")
            yield Relocation(offset, info & 0xFFFFFFFF, info >> 32, addend)

    def relocated(self, section: Section, place: int) -> int | None:
        """Return the number that a relocation writes at `place` of a section; None if none does, or in a linked file.

        A table may have millions of entries, which linkers write in the order of their places, so it is searched.
        Raises EnvironmentFault if nothing is found in a table without that order.
        """
        for table in self._relocation_tables.get(section.number, ()) if self.relocatable else ():
            low, high = 0, table.size // _RELA.size
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self._rela(table, middle)[0] < place else (low, middle)
            if low * _RELA.size + _RELA.size <= table.size and self._rela(table, low)[0] == place:
                _, info, addend = self._rela(table, low)
                return self._value_of(info >> 32) + addend
            if not self._in_order(table):
                raise _malformed(self.path, f"has relocations of {section.name} that are not in order")
        return None

    def _rela(self, table: Section, number: int) -> tuple[int, int, int]:
        place, info, addend = _RELA.unpack_from(self.data, table.offset + number * _RELA.size)
        return place, info, addend

    def _value_of(self, number: int) -> int:
        """Return the value of one symbol, without reading them all."""
        table = self.by_name.get(".symtab")
        if table is None or (number + 1) * _SYMBOL.size > table.size:
            raise _malformed(self.path, "has a relocation to a symbol that does not exist")
        value: int = _SYMBOL.unpack_from(self.data, table.offset + number * _SYMBOL.size)[4]
        return value

    def _in_order(self, table: Section) -> bool:
        if table.number not in self._ordered:
            raw = self.content(table)
            places = (place for place, _, _ in _RELA.iter_unpack(raw[: len(raw) - len(raw) % _RELA.size]))
            self._ordered[table.number] = all(one <= other for one, other in pairwise(places))
        return self._ordered[table.number]

    @cached_property
    def _ordered(self) -> dict[int, bool]:
        """The tables of relocations that were looked at, by number, and whether they are in order."""
        return {}

    @property
    def relocatable(self) -> bool:
        """True for objects and modules, whose relocations somebody else still has to apply."""
        kind: int = struct.unpack_from("<H", self.data, len(_IDENT) + 10)[0]
        return kind == _ET_REL

    @cached_property
    def _relocation_tables(self) -> dict[int, list[Section]]:
        tables: dict[int, list[Section]] = {}
        for section in self.sections:
            if section.kind == SHT_RELA:
                tables.setdefault(section.info, []).append(section)
        return tables

    @cached_property
    def build_id(self) -> str:
        """The GNU build-id in hexadecimal, empty if the file has none."""
        for section in self.sections:
            if section.kind == SHT_NOTE and (found := build_id_of_notes(self.content(section))):
                return found
        return ""

    @property
    def has_debug_info(self) -> bool:
        """True if the file has its debug information in itself."""
        return any(name in self.by_name for name in _INFORMATION)

    @cached_property
    def modinfo(self) -> dict[str, list[str]]:
        """The `key=value` strings of .modinfo, each key with all its values."""
        found: dict[str, list[str]] = {}
        for entry in self.named(".modinfo").split(b"\0"):
            key, separator, value = entry.decode(errors="replace").partition("=")
            if separator:
                found.setdefault(key, []).append(value)
        return found


def build_id_of_notes(notes: bytes) -> str:
    """Return the GNU build-id in a block of ELF notes such as /sys/kernel/notes, empty if it has none."""
    position = 0
    while position + _NOTE.size <= len(notes):
        name_size, size, kind = _NOTE.unpack_from(notes, position)
        start = position + _NOTE.size
        data = start + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and notes[start : start + name_size] == b"GNU\0" and data + size <= len(notes):
            return notes[data : data + size].hex()
        position = data + (size + 3) // 4 * 4
    return ""


def _malformed(path: Path, what: str) -> EnvironmentFault:
    return EnvironmentFault(
        "elf-malformed",
        f"{path.name} {what}.",
        advice="The file is damaged or another tool made it; make it again.",
    )
