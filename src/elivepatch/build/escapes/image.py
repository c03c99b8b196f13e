# SPDX-License-Identifier: GPL-2.0-or-later
"""Image of the new code for the search of escapes: its instructions, and what its relocations lead to."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from elivepatch.kernel.disassembly import Instruction
from elivepatch.kernel.elf import (
    BIND_LOCAL,
    R_X86_64_PC32,
    R_X86_64_PC64,
    R_X86_64_PLT32,
    RELOCATION_BYTES,
    TYPE_FUNC,
    ElfFile,
    Relocation,
    Section,
    Symbol,
)

_RELATIVE = frozenset((R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_PC64))
_STRINGS = 0x20  # SHF_STRINGS
_ALLOCATED = 0x2  # SHF_ALLOC
_DATA = (".data", ".rodata", ".bss")
_REPLACING = (".kpatch.funcs", ".init.klp_funcs")
_ONCE = (".init", ".exit")
_CALLBACKS = (".kpatch.callbacks.", ".init.klp_callbacks")
_TEXT_LIMIT = 60
# Tables of code: a place, a place to go on, and more; the bytes of an entry (struct jump_entry of linux/jump_label.h,
# struct exception_table_entry of asm/extable.h).
_BRANCHES = {"__jump_table": 16, "__ex_table": 12}

Node = tuple[str, int]
"""Place of an instruction: its section and its offset there."""


class Outside(NamedTuple):
    """A symbol of the kernel or of a module; `object` is `vmlinux` or the module, `name` is empty if it is unknown."""

    object: str
    name: str


class Thing(NamedTuple):
    """A function, a variable or a literal of the livepatch; `what` is `function`, `variable` or `literal`."""

    what: str
    name: str
    section: int
    offset: int

    def __str__(self) -> str:
        """Return the thing as messages name it."""
        if self.what == "literal":
            return f"the string {self.name}"
        return "its own name (__func__)" if self.name.startswith("__func__") else self.name.split(".")[0]


@dataclass(frozen=True)
class Image:
    """A diff object or a finished module, and its disassembled code."""

    elf: ElfFile
    instructions: tuple[Instruction, ...]
    resolved: Mapping[Node, Outside]
    """Symbols of the kernel that livepatch fills in, by the place of the field in a diff object."""

    @cached_property
    def at(self) -> dict[Node, Instruction]:
        """The instructions by their place."""
        return {(one.section, one.address): one for one in self.instructions}

    @cached_property
    def entries(self) -> dict[Node, str]:
        """The functions by the place of their first instruction."""
        return {
            (self.elf.sections[one.section].name, one.value): one.name
            for one in self.elf.symbols
            if one.defined and one.kind == TYPE_FUNC and one.size
        }

    @cached_property
    def replacing(self) -> tuple[Node, ...]:
        """The entries of the functions that replace those of the kernel, or that other files of the series call."""
        shared = (
            (self.elf.sections[one.section].name, one.value)
            for one in self.elf.symbols
            if one.defined and one.kind == TYPE_FUNC and one.bind != BIND_LOCAL
        )
        running = (node for node in shared if node in self.entries and not node[0].startswith(_ONCE))
        return tuple(dict.fromkeys((*self._functions_in(_REPLACING), *running)))

    @cached_property
    def callbacks(self) -> tuple[Node, ...]:
        """The entries of callbacks, empty if the livepatch has one that runs when it is disabled."""
        names = [one.name for one in self.elf.sections if one.name.startswith(_CALLBACKS)]
        undoing = any("unpatch" in name for name in names)
        return () if undoing else tuple(self._functions_in(_CALLBACKS))

    def _functions_in(self, prefixes: tuple[str, ...]) -> Iterator[Node]:
        for section in self.elf.sections:
            if section.name.startswith(prefixes):
                for entry in self.elf.relocations(section):
                    symbol = self.elf.symbols[entry.symbol]
                    if symbol.defined:
                        node = self.elf.sections[symbol.section].name, symbol.value + entry.addend
                        if node in self.entries:
                            yield node

    @cached_property
    def branches(self) -> dict[Node, list[Node]]:
        """Places at which the code may go on because of a table: of a static key's branch, or after an exception."""
        found: dict[Node, list[Node]] = defaultdict(list)
        for section in self.elf.sections:
            size = _BRANCHES.get(section.name)
            if size is None:
                continue
            entries: dict[int, list[Node]] = defaultdict(list)
            for entry in sorted(self.elf.relocations(section)):
                place = self.place_of(entry, behind=0)
                if place is not None and place[0].executable:
                    entries[entry.offset // size].append((place[0].name, place[1]))
            for places in entries.values():
                found[places[0]] += places[1:]
        return found

    def relocations_of(self, one: Instruction) -> list[Relocation]:
        """Return the relocations inside an instruction."""
        offsets, entries = self._relocations[one.section]
        return entries[bisect.bisect_left(offsets, one.address) : bisect.bisect_left(offsets, self.end_of(one))]

    def end_of(self, one: Instruction) -> int:
        """Return the end of an instruction; objdump's listing does not say it of a section's last one."""
        return min(one.end, self.elf.by_name[one.section].size)

    @cached_property
    def _relocations(self) -> dict[str, tuple[list[int], list[Relocation]]]:
        found: dict[str, tuple[list[int], list[Relocation]]] = defaultdict(lambda: ([], []))
        for section in self.elf.sections:
            if section.executable:
                entries = sorted(self.elf.relocations(section))
                found[section.name] = [one.offset for one in entries], entries
        return found

    def is_last_field(self, one: Instruction, entry: Relocation) -> bool:
        """Return whether a relocation fills in the last bytes of an instruction: an immediate value, if it has one."""
        return entry.offset + RELOCATION_BYTES.get(entry.kind, 4) == self.end_of(one)

    def symbol_of(self, entry: Relocation) -> Symbol:
        """Return the symbol of a relocation."""
        return self.elf.symbols[entry.symbol]

    def resolved_in(self, one: Instruction) -> Outside | None:
        """Return the symbol that livepatch fills into an instruction, None if it fills in none."""
        places = ((one.section, offset) for offset in range(one.address, self.end_of(one)))
        return next((self.resolved[place] for place in places if place in self.resolved), None)

    def outside(self, entry: Relocation) -> Outside:
        """Return the symbol of the kernel that a relocation names."""
        name = self.symbol_of(entry).name
        if not name.startswith(".klp.sym."):
            return Outside("vmlinux", name)
        *_, owner, symbol = name.split(".", 4)
        return Outside(owner, symbol.rpartition(",")[0])

    def place_of(self, entry: Relocation, behind: int = 4) -> tuple[Section, int] | None:
        """Return the section of the livepatch that a relocation leads to and the offset there, None if to none.

        `behind` is the number of bytes from a relative field to the end of its instruction.
        """
        symbol = self.symbol_of(entry)
        if not symbol.defined:
            return None
        more = behind if entry.kind in _RELATIVE else 0
        return self.elf.sections[symbol.section], symbol.value + entry.addend + more

    def thing_at(self, place: tuple[Section, int] | None) -> Thing | None:
        """Return what is at a place of the livepatch: None if it is no entry of a function, no variable, no literal."""
        if place is None:
            return None
        section, offset = place
        if section.executable:
            name = self.entries.get((section.name, offset))
            return Thing("function", name, section.number, offset) if name else None
        if not section.flags & _ALLOCATED or not section.name.startswith(_DATA):
            return None
        if section.flags & _STRINGS:
            return Thing("literal", _text(self.elf.content(section), offset), section.number, offset)
        for start, end, name in self._variables.get(section.number, ()):
            if start <= offset < end:
                return Thing("variable", name, section.number, start)
        return Thing("variable", section.name, section.number, 0)

    def pointers_in(self, thing: Thing) -> Iterable[Thing]:
        """Return what the initial value of a variable points to, in the livepatch and outside the variable itself."""
        if thing.what != "variable":
            return
        section = self.elf.sections[thing.section]
        extents = self._variables.get(thing.section, ())
        end = next((end for start, end, _ in extents if start == thing.offset), section.size)
        for entry in self.elf.relocations(section):
            if thing.offset <= entry.offset < end:
                found = self.thing_at(self.place_of(entry, behind=0))
                if found is not None and found != thing:
                    yield found

    def labels_in(self, place: tuple[Section, int]) -> Iterator[Node]:
        """Yield the places in the code that a table of jumps, which begins in a variable, leads to."""
        for entry in self.elf.relocations(place[0]):
            target = self.place_of(entry, behind=0)
            if target is not None and target[0].executable:
                yield target[0].name, target[1]

    @cached_property
    def _variables(self) -> dict[int, list[tuple[int, int, str]]]:
        found: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
        for one in self.elf.symbols:
            if one.defined and one.name and one.size and one.kind != TYPE_FUNC:
                found[one.section].append((one.value, one.value + one.size, one.name))
        return found


def _text(content: bytes, offset: int) -> str:
    raw = content[offset : content.find(b"\0", offset)].decode(errors="replace")
    shown = raw if len(raw) <= _TEXT_LIMIT else f"{raw[:_TEXT_LIMIT]}..."
    return f'"{shown}"'.replace("\n", "\\n").replace("\t", "\\t")
