# SPDX-License-Identifier: GPL-2.0-or-later
"""Equality of two livepatch modules, except in details that do not affect their behaviour.

A module is read as a collection of facts: one for each function and datum (its bytes), relocation (place, kind and
target), entry of the kernel's tables, symbol, string, checksum and line of modinfo. Two modules are equal if their
facts are. The facts leave out, each for its reason:

* debug information, .comment and the build-id: nothing reads them at run time, and they name the build's directories;
* positions in a section: `ld -r` appends the objects of a patch in the order of its arguments, which for kpatch-build
  is that of a directory. Functions and data are identified by symbol, strings by their text, alternatives by their
  code; tables are compared entry by entry;
* FILE and section symbols: the kernel's module loader ignores them;
* the line numbers in __bug_table: the builder `objects` keeps those of the running kernel's source (patch/lines.py),
  kpatch-build does not. They appear in warnings only;
* address and size of the old function inside a module, in .kpatch.funcs: `objects` reads them from the module that the
  host has, kpatch-build from its own, whose functions have sections of their own. The kernel uses name and position.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from elivepatch.kernel.elf import (
    R_X86_64_PC32,
    R_X86_64_PLT32,
    SHT_GROUP,
    SHT_NOBITS,
    SHT_NULL,
    SHT_RELA,
    TYPE_FILE,
    TYPE_SECTION,
    ElfFile,
    Relocation,
    Section,
    Symbol,
)

_ALLOC, _STRINGS = 0x2, 0x20
_KIND_NONE = 0
_LIVE = ".klp.rela."
_NOT_COMPARED = (".debug_", ".comment", ".note.gnu.build-id", ".BTF", ".discard.", ".symtab", ".strtab", ".shstrtab")
_REPLACEMENTS = ".altinstr_replacement"
_ALTERNATIVES, _BUGS = ".altinstructions", "__bug_table"
_FUNCTIONS = ".kpatch.funcs"
_UNWIND, _UNWIND_PLACES = ".orc_unwind", ".orc_unwind_ip"
# Sections that are tables, with the size of an entry: either fixed by the kernel or read from its debug information.
_ENTRY_BYTES = {
    ".smp_locks": 4, ".return_sites": 4, ".retpoline_sites": 4, ".call_sites": 4, _UNWIND_PLACES: 4,
    "__mcount_loc": 8, "__patchable_function_entries": 8, "__versions": 64, _FUNCTIONS: 56,
}  # fmt: skip
_MEASURED = {
    _ALTERNATIVES: "ALT_STRUCT_SIZE", _BUGS: "BUG_STRUCT_SIZE", "__ex_table": "EX_STRUCT_SIZE",
    "__jump_table": "JUMP_STRUCT_SIZE", ".static_call_sites": "STATIC_CALL_STRUCT_SIZE",
    ".parainstructions": "PARA_STRUCT_SIZE", _UNWIND: "ORC_STRUCT_SIZE",
}  # fmt: skip
# Sections of strings whose header does not say so.
_TEXTS = (".modinfo", ".kpatch.strings")
# struct bug_entry of include/asm-generic/bug.h with relative pointers and CONFIG_DEBUG_BUGVERBOSE: two pointers, line.
_LINE_AT = slice(8, 10)
# struct kpatch_patch_func of kpatch-patch.h: old_addr, old_size.
_OLD_AT = slice(16, 32)
_IN_VMLINUX = "string b'vmlinux'"
# A relocation in code is relative to the end of its field, and most fields are the last of their instruction.
_FIELD_BYTES = 4

Fact = tuple[str, str]
"""One fact about a module: its place or kind, and its content."""


def read_facts(path: Path, struct_sizes: Mapping[str, int]) -> Counter[Fact]:
    """Return all facts of a module; `struct_sizes` are the base's. Raises EnvironmentFault if it is not ELF."""
    return Counter(_Module(ElfFile(path), struct_sizes).facts())


def differences(one: Counter[Fact], other: Counter[Fact]) -> list[str]:
    """Return a line for each fact that only one of two modules has: `-` only the first, `+` only the second."""
    lines = [(fact, sign) for sign, facts in (("-", one - other), ("+", other - one)) for fact in facts.elements()]
    return [f"{sign} {what}: {content}" for (what, content), sign in sorted(lines)]


@dataclass(frozen=True)
class _Module:
    elf: ElfFile
    struct_sizes: Mapping[str, int]

    def facts(self) -> Iterator[Fact]:
        for section in self.elf.sections:
            if section.name.startswith(_NOT_COMPARED) or section.kind in {SHT_NULL, SHT_RELA, SHT_GROUP}:
                continue
            # The size of what has content follows from its facts, but for what aligns one object behind another.
            size = f" size {section.size}" if section.kind == SHT_NOBITS else ""
            yield f"section {section.name}", f"{section.kind} flags {section.flags:#x}{size}"
            yield from self._content(section)
        for symbol in self.elf.symbols:
            if symbol.name and symbol.kind not in {TYPE_FILE, TYPE_SECTION}:
                yield f"symbol {symbol.name}", self._shown(symbol)

    def _shown(self, symbol: Symbol) -> str:
        where = self.elf.sections[symbol.section].name if symbol.defined else f"{symbol.section:#x}"
        return f"kind {symbol.kind} bind {symbol.bind} size {symbol.size} in {where}"

    def _content(self, section: Section) -> Iterator[Fact]:
        size = _ENTRY_BYTES.get(section.name) or self.struct_sizes.get(_MEASURED.get(section.name, ""), 0)
        if section.flags & _STRINGS or section.name in _TEXTS:
            for text in self.elf.content(section).split(b"\0"):
                if text:
                    yield f"string of {section.name}", repr(text)
        elif section.name == _REPLACEMENTS or section.name == _UNWIND:
            return  # part of the entries that they belong to
        elif size:
            yield from self._entries(section, size)
        else:
            yield from self._pieces(section)

    def _entries(self, section: Section, size: int) -> Iterator[Fact]:
        raw = self.elf.content(section)
        unwind = self.elf.named(_UNWIND) if section.name == _UNWIND_PLACES else b""
        wide = self.struct_sizes.get(_MEASURED[_UNWIND], 0)
        for number in range(0, len(raw), size):
            entry = bytearray(raw[number : number + size])
            targets = self._targets(section, number, number + size, entry)
            if section.name == _BUGS:
                entry[_LINE_AT] = bytes(_LINE_AT.stop - _LINE_AT.start)
            elif section.name == _FUNCTIONS and not any(_IN_VMLINUX in target for target in targets):
                entry[_OLD_AT] = bytes(_OLD_AT.stop - _OLD_AT.start)
            at = number // size * wide
            yield f"entry of {section.name}", " ".join([(entry + unwind[at : at + wide]).hex(), *targets])

    def _targets(self, section: Section, first: int, last: int, entry: bytearray | None = None) -> list[str]:
        """Return the targets of the relocations in a part of a section; `entry` is its content in a table."""
        return sorted(
            f"+{one.offset - first} {one.kind} {table}{self._alternative(entry, one) or self._target(section, one)}"
            for one, table in self._within(section, first, last)
        )

    def _alternative(self, entry: bytearray | None, relocation: Relocation) -> str:
        """Return the code of an alternative if `relocation` leads to it, else an empty string."""
        symbol = self.elf.symbols[relocation.symbol]
        if entry is None or not symbol.defined or self.elf.sections[symbol.section].name != _REPLACEMENTS:
            return ""
        section = self.elf.sections[symbol.section]
        # The last member of struct alt_instr is the length of the replacement (arch/x86/include/asm/alternative.h).
        first = symbol.value + relocation.addend
        last = first + entry[-1]
        code = self.elf.content(section)[first:last].hex()
        return f"(code {' '.join([code, *self._targets(section, first, last)])})"

    def _pieces(self, section: Section) -> Iterator[Fact]:
        """Yield the facts of a section of code or data, symbol by symbol."""
        raw = self.elf.content(section)
        symbols = self._starts.get(section.number, [])
        starts = sorted({0, *(symbol.value for symbol in symbols)})
        for start, end in zip(starts, [*starts[1:], max(section.size, starts[-1])], strict=True):
            if start == end:
                continue
            name = self._named(section, start)
            if raw:
                # The padding after a piece depends on the next one, which may be another in the other module.
                content = raw[start:end].rstrip(b"\0\x90\xcc") if section.flags & _ALLOC else raw[start:end]
                yield f"content of {name}", sha256(content).hexdigest()
            for target in self._targets(section, start, end):
                yield f"relocation of {name}", target

    def _target(self, place: Section, relocation: Relocation) -> str:
        symbol = self.elf.symbols[relocation.symbol]
        if symbol.kind != TYPE_SECTION:
            return f"{symbol.name}{relocation.addend:+#x}"
        section = self.elf.sections[symbol.section]
        relative = relocation.kind in {R_X86_64_PC32, R_X86_64_PLT32} and place.executable
        bias = _FIELD_BYTES if relative else 0
        at = symbol.value + relocation.addend + bias
        if section.flags & _STRINGS or section.name in _TEXTS:
            raw = self.elf.content(section)
            return f"string {raw[at : raw.find(bytes(1), at)]!r} {-bias:+}"
        starts = [one.value for one in self._starts.get(section.number, [])]
        found = bisect_right(starts, at)
        start = starts[found - 1] if found else 0
        return f"{self._named(section, start)}{at - start - bias:+#x}"

    def _named(self, section: Section, start: int) -> str:
        names = {symbol.name for symbol in self._starts.get(section.number, []) if symbol.value == start}
        return "|".join(sorted(names)) or section.name

    @cached_property
    def _starts(self) -> dict[int, list[Symbol]]:
        """The named symbols of each section by address."""
        found: dict[int, list[Symbol]] = {}
        for symbol in self.elf.symbols:
            if symbol.defined and symbol.name and symbol.kind not in {TYPE_FILE, TYPE_SECTION}:
                found.setdefault(symbol.section, []).append(symbol)
        return {number: sorted(symbols, key=lambda symbol: symbol.value) for number, symbols in found.items()}

    def _within(self, section: Section, first: int, last: int) -> list[tuple[Relocation, str]]:
        offsets, entries = self._relocations.get(section.number, ([], []))
        return entries[bisect_left(offsets, first) : bisect_left(offsets, last)]

    @cached_property
    def _relocations(self) -> dict[int, tuple[list[int], list[tuple[Relocation, str]]]]:
        """The relocations that apply to each section by place; with the table's name, those that livepatch applies."""
        found: dict[int, list[tuple[Relocation, str]]] = {}
        for table in self.elf.sections:
            if table.kind == SHT_RELA:
                live = f"{table.name} " if table.name.startswith(_LIVE) else ""
                entries = ((one, live) for one in self.elf.entries(table) if one.kind != _KIND_NONE)
                found.setdefault(table.info, []).extend(entries)
        return {number: ([one.offset for one, _ in sorted(all_)], sorted(all_)) for number, all_ in found.items()}
