# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets of a rebuilt function's references, compared with those of the shipped function.

Bytes alone do not distinguish two functions that differ in nothing but the function they call or the string they print:
relocations fill those places. So each place is computed back: what it holds in the parent must be the address of the
symbol that the rebuilt object names there. A symbol of the object itself must lie at the same distance from the
object's other symbols; a string or constant that the linker may have merged must have the same content.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from elivepatch.kernel.elf import (
    BIND_LOCAL,
    BIND_WEAK,
    R_X86_64_32,
    R_X86_64_PC32,
    R_X86_64_PC64,
    R_X86_64_PLT32,
    RELOCATION_BYTES,
    TYPE_SECTION,
    ElfFile,
    Relocation,
    Section,
    Symbol,
)
from elivepatch.kernel.symbols import Block, LinkedSymbols

_RELATIVE = frozenset({R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_PC64})
_SHF_MERGE, _SHF_STRINGS = 0x10, 0x20
_CONSTANT = re.compile(r"\.cst(\d+)$")
_STRING_LIMIT_BYTES = 1 << 16
_WORD = 1 << 64


class Address(NamedTuple):
    """An address in the parent: `section` is 0 in vmlinux, whose addresses need none."""

    section: int
    value: int

    def moved(self, by: int) -> Address:
        """Return the address that lies `by` bytes behind this one."""
        return Address(self.section, (self.value + by) % _WORD)


@dataclass(frozen=True)
class Targets:
    """References of one rebuilt object, `plain`, beside those of its parent; `block` holds its local symbols there."""

    plain: ElfFile
    linked: LinkedSymbols
    block: Block
    _starts: dict[int, Address] = field(default_factory=dict)

    def differing(self, one: Symbol, other: Symbol) -> str | None:
        """Return what the function `one` refers to and the shipped `other` does not, None if there is nothing.

        References that cannot be computed back (to linker-made or absolute symbols) count as the same.
        """
        for entry in self._entries(self.plain, one):
            if not self._is_same(entry, one, other):
                return self._shown(self.plain.symbols[entry.symbol], entry)
        return None

    def _is_same(self, entry: Relocation, one: Symbol, other: Symbol) -> bool:
        symbol = self.plain.symbols[entry.symbol]
        if entry.kind not in RELOCATION_BYTES:
            return True
        place = other.value + entry.offset - one.value
        if self.linked.is_vmlinux:
            found = self._filled(entry, place, other)
        else:
            shipped = self._shipped_entries(other.section).get(place)
            if shipped is None:
                return False
            theirs = self.linked.elf.symbols[shipped.symbol]
            if not theirs.defined:
                return theirs.name == symbol.name and shipped.addend == entry.addend
            found = Address(theirs.section, theirs.value).moved(shipped.addend - entry.addend)
        return found is None or self._leads_to(symbol, entry, found)

    def _filled(self, entry: Relocation, place: int, other: Symbol) -> Address | None:
        """Return the address of the symbol with which the linker filled a place of vmlinux."""
        section = self.linked.elf.sections[other.section]
        size = RELOCATION_BYTES[entry.kind]
        start = place - section.address
        raw = self.linked.elf.part(section, start, size)
        if len(raw) < size:
            return None
        value = int.from_bytes(raw, "little", signed=entry.kind != R_X86_64_32)
        return Address(0, (value - entry.addend + (place if entry.kind in _RELATIVE else 0)) % _WORD)

    def _leads_to(self, symbol: Symbol, entry: Relocation, found: Address) -> bool:
        if not symbol.defined:
            places = self._named(symbol.name)
            return not places or found in places
        section = self.plain.sections[symbol.section]
        if section.flags & _SHF_MERGE:
            return self._same_content(section, symbol, entry, found)
        if symbol.bind != BIND_LOCAL:
            # Another object's function takes the place of a weak one.
            return found in self._named(symbol.name)
        start = found.moved(-symbol.value)
        return self._start_of(symbol.section, start) == start

    def _start_of(self, number: int, otherwise: Address) -> Address:
        """Return the address in the parent at which a section of the object starts.

        A symbol of the section that is known in the parent decides; without one, the first reference does.
        """
        if number not in self._starts:
            self._starts[number] = next(self._known(number), otherwise)
        return self._starts[number]

    def _known(self, number: int) -> Iterator[Address]:
        for symbol in self._by_section.get(number, ()):
            if symbol.bind == BIND_WEAK:
                continue  # the parent may hold another object's symbol of this name
            same = self._locals.get(symbol.name, []) if symbol.bind == BIND_LOCAL else self._named(symbol.name)
            if len(same) == 1:
                yield same[0].moved(-symbol.value)

    def _same_content(self, section: Section, symbol: Symbol, entry: Relocation, found: Address) -> bool:
        ahead = 0
        if symbol.kind == TYPE_SECTION:
            # The addend says which string of the section is meant. That of a relative reference counts from the end of
            # the place, which is that of the instruction for strings. With a label, the linker finds the label's string
            # and adds the addend afterwards: code may refer to an address behind a string's end.
            ahead = entry.addend + (RELOCATION_BYTES[entry.kind] if entry.kind in _RELATIVE else 0)
        start = symbol.value + ahead
        content = self.plain.content(section)
        if section.flags & _SHF_STRINGS:
            ours = content[start : content.find(b"\0", start) + 1]
        elif constant := _CONSTANT.search(section.name):
            ours = content[start : start + int(constant[1])]
        else:
            return True
        return self._at(found.moved(ahead), len(ours)) in {ours, None}

    def _at(self, address: Address, size: int) -> bytes | None:
        """Return the bytes at an address of the parent, None if no section of the file holds them."""
        elf = self.linked.elf
        if not self.linked.is_vmlinux:
            return elf.part(elf.sections[address.section], address.value, size)
        number = bisect_right(self._mapped, (address.value, len(elf.sections))) - 1
        if number < 0:
            return None
        section = elf.sections[self._mapped[number][1]]
        start = address.value - section.address
        return elf.part(section, start, size) if start + size <= section.size else None

    def _named(self, name: str) -> list[Address]:
        return [self._address(symbol) for symbol in self.linked.named.get(name, []) if symbol.bind != BIND_LOCAL]

    def _address(self, symbol: Symbol) -> Address:
        return Address(0 if self.linked.is_vmlinux else symbol.section, symbol.value)

    def _shown(self, symbol: Symbol, entry: Relocation) -> str:
        if symbol.name and not symbol.name.startswith("."):
            return symbol.name
        return f"{self.plain.sections[symbol.section].name}+{entry.addend:#x}" if symbol.defined else "a symbol"

    def _entries(self, file: ElfFile, symbol: Symbol) -> list[Relocation]:
        """Return the relocations that apply to a function of the object."""
        if symbol.section not in self._sorted:
            self._sorted[symbol.section] = sorted(file.relocations(file.sections[symbol.section]))
        entries = self._sorted[symbol.section]
        first = bisect_left(entries, (symbol.value,))
        return entries[first : bisect_left(entries, (symbol.value + symbol.size,))]

    @cached_property
    def _sorted(self) -> dict[int, list[Relocation]]:
        return {}

    def _shipped_entries(self, number: int) -> Mapping[int, Relocation]:
        """Return the relocations of a section of the shipped module by their offset."""
        if number not in self._shipped:
            elf = self.linked.elf
            self._shipped[number] = {entry.offset: entry for entry in elf.relocations(elf.sections[number])}
        return self._shipped[number]

    @cached_property
    def _shipped(self) -> dict[int, dict[int, Relocation]]:
        return {}

    @cached_property
    def _locals(self) -> dict[str, list[Address]]:
        found: dict[str, list[Address]] = {}
        for symbol in self.block.symbols:
            if symbol.defined:
                found.setdefault(symbol.name, []).append(self._address(symbol))
        return found

    @cached_property
    def _by_section(self) -> dict[int, list[Symbol]]:
        """The named symbols of the object, by section; of several local ones of a name none is certain."""
        found: dict[int, list[Symbol]] = {}
        counts: dict[str, int] = {}
        for symbol in self.plain.symbols:
            counts[symbol.name] = counts.get(symbol.name, 0) + 1
        for symbol in self.plain.symbols:
            if symbol.defined and symbol.name and counts[symbol.name] == 1:
                found.setdefault(symbol.section, []).append(symbol)
        return found

    @cached_property
    def _mapped(self) -> list[tuple[int, int]]:
        """The sections that the parent has in memory, by their addresses."""
        return sorted((section.address, section.number) for section in self.linked.elf.sections if section.address)
