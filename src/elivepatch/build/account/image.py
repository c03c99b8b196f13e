# SPDX-License-Identifier: GPL-2.0-or-later
"""One object taken apart: its functions and data, what refers to what, and the tables with entries for its code.

Objects come from a compiler that read hostile source. Every place is checked against its section, nothing recurses.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from elivepatch.build.account.names import TABLES, parent_of, plain
from elivepatch.kernel.elf import (
    R_X86_64_PC32,
    R_X86_64_PLT32,
    SHT_NOBITS,
    TYPE_FUNC,
    TYPE_OBJECT,
    ElfFile,
    Relocation,
    Section,
    Symbol,
)

Key = tuple[str, int]
"""Name of a piece without the compiler's numbers, and its place among those of that name."""
NAMELESS: Key = ("", 0)
"""In place of the key of a function: code that has no name."""

_ALIASES = 64  # names of one place that are looked at
OPERAND_BYTES = 4
"""The longest operand that can follow the field of a reference relative to the next instruction."""
_FIELD_BYTES = 4  # of a reference that counts from the end of its field
_RELATIVE = (R_X86_64_PC32, R_X86_64_PLT32)


class Piece(NamedTuple):
    """A function or datum: the bytes from `start` to `end` of `section`."""

    key: Key
    name: str
    section: Section
    start: int
    end: int
    symbol: Symbol

    @property
    def is_code(self) -> bool:
        """True for a function."""
        return self.symbol.kind == TYPE_FUNC


class Place(NamedTuple):
    """The target of a relocation: `position` in section `section`, or what is called `name` elsewhere."""

    section: int
    position: int
    name: str
    relative: bool = False


class Entry(NamedTuple):
    """An entry of a table, which belongs to a place in a function."""

    table: Section
    start: int
    end: int


@dataclass(frozen=True)
class Image:
    """An object. `sizes` are the sizes in bytes of the entries of tables, by the names that kpatch uses."""

    elf: ElfFile
    sizes: Mapping[str, int]

    def content(self, section: Section, start: int, end: int) -> bytes:
        """Return bytes of a section; zeros have no content in the file."""
        start, end = max(start, 0), min(end, section.size)
        if start >= end:
            return b""
        if section.kind == SHT_NOBITS:
            return b"\0" * min(end - start, 1 << 20)
        return self.elf.part(section, start, end - start)

    @cached_property
    def by_section(self) -> dict[int, list[Piece]]:
        """The functions and data of each section, in the order of their places."""
        counts: dict[tuple[str, bool], int] = defaultdict(int)
        found: dict[int, list[Piece]] = defaultdict(list)
        for symbol in self.elf.symbols:
            if symbol.kind not in {TYPE_FUNC, TYPE_OBJECT} or not symbol.defined or symbol.name.startswith("__pfx_"):
                continue
            section = self.elf.sections[symbol.section]
            name = plain(symbol.name)
            key = (name, counts[name, symbol.kind == TYPE_FUNC])
            counts[name, symbol.kind == TYPE_FUNC] += 1
            end = min(symbol.value + symbol.size, section.size)
            found[symbol.section].append(Piece(key, symbol.name, section, symbol.value, end, symbol))
        for pieces in found.values():
            pieces.sort(key=lambda one: (one.start, one.end, one.symbol.number))
        return dict(found)

    @cached_property
    def _starts(self) -> dict[int, list[int]]:
        return {number: [one.start for one in pieces] for number, pieces in self.by_section.items()}

    @cached_property
    def pieces(self) -> dict[tuple[bool, Key], Piece]:
        """All functions and data, by kind and key."""
        return {(one.is_code, one.key): one for pieces in self.by_section.values() for one in pieces}

    @cached_property
    def _by_name(self) -> dict[str, Piece]:
        return {one.name: one for one in self.pieces.values() if one.is_code}

    def parent(self, piece: Piece) -> Piece | None:
        """Return the function that the compiler cut a `.cold` or `.part` function out of, if it is still there."""
        return self._by_name.get(parent_of(piece.name)) if piece.is_code else None

    def at(self, section: int, position: int) -> list[Piece]:
        """Return the pieces at a place: several if one place has several names, none if nothing has a name there."""
        pieces, starts = self.by_section.get(section, []), self._starts.get(section, [])
        if starts and starts[-1] == 0:
            # The compiler may refer to a table from before its start, if the first index is not zero.
            return pieces[-_ALIASES:]
        last = bisect_right(starts, position) - 1
        if last < 0:
            if not starts or starts[0] or position < -OPERAND_BYTES:
                return []
            last = 0  # an operand follows the field of a reference to the start of the section
        end = pieces[last].end
        if position > end or (position == end > starts[last] and not self._ends_there(section, position)):
            return []
        return pieces[max(bisect_left(starts, starts[last]), last + 1 - _ALIASES) : last + 1]

    def _ends_there(self, section: int, position: int) -> bool:
        """Return if the section ends at `position`: a pointer to the end of the last datum then belongs to that."""
        return position == self.elf.sections[section].size

    @cached_property
    def _relocations(self) -> dict[int, tuple[list[Relocation], list[int]]]:
        return {}

    def relocations(self, section: Section, start: int = 0, end: int | None = None) -> list[Relocation]:
        """Return the relocations of the bytes from `start` to `end`, by their place."""
        known = self._relocations.get(section.number)
        if known is None:
            entries = sorted(self.elf.relocations(section))
            known = self._relocations[section.number] = (entries, [one.offset for one in entries])
        entries, places = known
        return entries[bisect_left(places, start) : bisect_left(places, section.size if end is None else end)]

    def place(self, entry: Relocation, *, in_code: bool) -> Place:
        """Return the target of a relocation. One relative to its own field's end counts from there in code."""
        symbol = self.elf.symbols[entry.symbol]
        if not symbol.defined:
            return Place(0, symbol.value + entry.addend, symbol.name or f"#{symbol.section}")
        relative = in_code and entry.kind in _RELATIVE
        return Place(symbol.section, symbol.value + entry.addend + _FIELD_BYTES * relative, "", relative)

    @cached_property
    def loaded(self) -> list[Section]:
        """The sections that take room in memory, without relocations."""
        return [one for one in self.elf.sections if one.loaded]

    @cached_property
    def borders(self) -> dict[int, list[int]]:
        """The places of each section that something refers to, in order."""
        found: dict[int, set[int]] = defaultdict(set)
        for section in self.loaded:
            for entry in self.relocations(section):
                target = self.place(entry, in_code=section.executable)
                if target.section:
                    found[target.section].add(target.position)
        return {number: sorted(places) for number, places in found.items()}

    def chunk_end(self, section: int, position: int) -> int:
        """Return the end of the unnamed bytes at a place: the next place that has a name or is referred to."""
        ends = [self.elf.sections[section].size]
        for places in (self.borders.get(section, []), self._starts.get(section, [])):
            after = bisect_right(places, position)
            ends += places[after : after + 1]
        return min(ends)

    @cached_property
    def entries(self) -> dict[Key, list[tuple[str, int, Entry]]]:
        """The entries of the tables for each function: the table's name, the place in the function, the entry.

        Those for code without a name are under `NAMELESS`, with their places in the table.
        """
        found: dict[Key, list[tuple[str, int, Entry]]] = defaultdict(list)
        for section in self.loaded:
            size = self.sizes.get(TABLES.get(section.name, ""), 0)
            if size > 0 and section.kind != SHT_NOBITS:
                for start in range(0, section.size, size):
                    entry = Entry(section, start, start + size)
                    code = list(self._code_of(entry))
                    for piece, place in code:
                        found[piece.key].append((section.name, place, entry))
                    if not code:
                        found[NAMELESS].append((section.name, len(found[NAMELESS]), entry))
        for entries in found.values():
            entries.sort(key=lambda one: one[:2])
        return dict(found)

    def _code_of(self, entry: Entry) -> Iterator[tuple[Piece, int]]:
        """Yield the function that the first field of an entry refers to, and the place in it."""
        for first in self.relocations(*entry)[:1]:
            target = self.place(first, in_code=False)
            for piece in self.at(target.section, target.position):
                if piece.is_code:
                    yield piece, target.position - piece.start

    @cached_property
    def users(self) -> dict[tuple[bool, Key], set[tuple[bool, Key] | str]]:
        """Users of each function or datum: functions and data by kind and key, else the name of a section."""
        found: dict[tuple[bool, Key], set[tuple[bool, Key] | str]] = defaultdict(set)
        for section in self.loaded:
            for entry in self.relocations(section):
                target = self.place(entry, in_code=section.executable)
                used = self.at(target.section, target.position)
                if used:
                    holders = self.at(section.number, entry.offset)
                    by: set[tuple[bool, Key] | str] = {(one.is_code, one.key) for one in holders}
                    by = by or {section.name}
                    for one in used:
                        found[one.is_code, one.key] |= by
        return found
