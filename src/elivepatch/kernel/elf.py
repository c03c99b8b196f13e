# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading ELF files of the kernel: sections, symbols, relocations, notes, modinfo.

Sections are found by pyelftools; the large tables (vmlinux has 200,000 symbols) are unpacked in one go because
building an object per field takes seconds there. Formats: System V ABI, "Object Files"; x86-64 psABI for relocations.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from elivepatch.model.errors import EnvironmentFault

_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_NOTE = struct.Struct("<III")
_NT_GNU_BUILD_ID = 3
_SHF_EXECINSTR = 0x4
_SHN_UNDEF = 0
_SHN_LORESERVE = 0xFF00
_SHN_XINDEX = 0xFFFF
_NAME_LIMIT = 2048  # KSYM_NAME_LEN is 512; without a limit, a small file could stand for gigabytes of names

TYPE_NOTYPE, TYPE_OBJECT, TYPE_FUNC, TYPE_SECTION, TYPE_FILE = range(5)
BIND_LOCAL, BIND_GLOBAL, BIND_WEAK = range(3)

R_X86_64_64, R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_32, R_X86_64_32S, R_X86_64_PC64 = 1, 2, 4, 10, 11, 24
RELOCATION_BYTES = {R_X86_64_64: 8, R_X86_64_PC64: 8, R_X86_64_PC32: 4, R_X86_64_PLT32: 4, R_X86_64_32: 4,
                    R_X86_64_32S: 4}  # fmt: skip
"""How many bytes each relocation type that kernel objects use fills in."""


# What pyelftools lets through where a header's fields contradict each other; OSError is a seek to nowhere.
_UNREADABLE = (ELFError, ConstructError, ValueError, KeyError, AttributeError, IndexError, TypeError, OSError)


class Section(NamedTuple):
    """A section header. `executable` says whether it holds code, `flags` are sh_flags as they stand there."""

    number: int
    name: str
    kind: str
    executable: bool
    address: int
    offset: int
    size: int
    link: int
    info: int
    flags: int


class Symbol(NamedTuple):
    """An entry of .symtab; `section` is an index, 0 where undefined, 0xfff1 where absolute."""

    number: int
    name: str
    value: int
    size: int
    kind: int
    bind: int
    section: int

    @property
    def defined(self) -> bool:
        """Whether the symbol lives in one of this file's sections."""
        return self.section != _SHN_UNDEF and self.section < _SHN_LORESERVE


class Relocation(NamedTuple):
    """An entry of a .rela section; `offset` is relative to the section it applies to."""

    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True)
class ElfFile:
    """A 64-bit little-endian ELF file, mapped into memory.

    Every property raises EnvironmentFault with code `elf-malformed` where the file is not what it should be.
    """

    path: Path

    @cached_property
    def _data(self) -> bytes | mmap.mmap:
        with self.path.open("rb") as file:
            if self.path.stat().st_size == 0:
                raise _malformed(self.path, "is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All section headers in order."""
        size = len(self._data)
        try:
            with self.path.open("rb") as file:
                elf = ELFFile(file)
                if elf.elfclass != 64 or not elf.little_endian:
                    raise _malformed(self.path, "is not a 64-bit little-endian ELF file")
                found = tuple(
                    Section(
                        index, section.name, str(section["sh_type"]), bool(section["sh_flags"] & _SHF_EXECINSTR),
                        section["sh_addr"], section["sh_offset"], section["sh_size"], section["sh_link"],
                        section["sh_info"], section["sh_flags"],
                    )
                    for index, section in enumerate(elf.iter_sections())
                )  # fmt: skip
        except _UNREADABLE as error:
            raise _malformed(self.path, f"cannot be read as ELF: {error}") from error
        for section in found:
            if section.kind != "SHT_NOBITS" and section.offset + section.size > size:
                raise _malformed(self.path, f"is truncated in section {section.name}")
        return found

    @cached_property
    def by_name(self) -> dict[str, Section]:
        """The last section of each name."""
        return {section.name: section for section in self.sections}

    def content(self, section: Section) -> bytes:
        """Return the bytes of a section, empty for one that takes no room in the file."""
        if section.kind == "SHT_NOBITS":
            return b""
        return self._data[section.offset : section.offset + section.size]

    def named(self, name: str) -> bytes:
        """Return the bytes of the section called `name`, empty where there is none."""
        section = self.by_name.get(name)
        return self.content(section) if section else b""

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """All entries of .symtab in order; empty where there is none."""
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
            end = names.find(b"\0", name, name + _NAME_LIMIT)
            if end < 0:
                raise _malformed(self.path, "has a symbol whose name has no end")
            if count <= section < _SHN_LORESERVE:
                raise _malformed(self.path, "has a symbol in a section that is not there")
            text = names[name:end].decode(errors="replace")
            found.append(Symbol(index, text, value, size, info & 0xF, info >> 4, section))
        return tuple(found)

    def _extended_indices(self) -> tuple[int, ...]:
        for section in self.sections:
            if section.kind == "SHT_SYMTAB_SHNDX":
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
                raise _malformed(self.path, "has a relocation to a symbol that is not there")
            yield Relocation(offset, info & 0xFFFFFFFF, info >> 32, addend)

    @cached_property
    def _relocation_tables(self) -> dict[int, list[Section]]:
        tables: dict[int, list[Section]] = {}
        for section in self.sections:
            if section.kind == "SHT_RELA":
                tables.setdefault(section.info, []).append(section)
        return tables

    @cached_property
    def build_id(self) -> str:
        """The GNU build-id in hexadecimal, empty where the file has none."""
        for section in self.sections:
            if section.kind == "SHT_NOTE" and (found := build_id_of_notes(self.content(section))):
                return found
        return ""

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
    """Return the GNU build-id in a block of ELF notes such as /sys/kernel/notes, empty where there is none."""
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
        advice="The file is damaged or was made by another tool; make it anew.",
    )
