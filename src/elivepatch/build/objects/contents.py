# SPDX-License-Identifier: GPL-2.0-or-later
"""Differences between an original and a patched object: functions, data, pointers in tables, exports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from elivepatch.kernel.elf import (
    R_X86_64_64,
    R_X86_64_PC32,
    TYPE_FUNC,
    TYPE_OBJECT,
    ElfFile,
    Relocation,
)

# Up to 6.3 an export leaves __ksymtab_NAME in the object, later __export_symbol_NAME (include/linux/export.h).
_EXPORT = re.compile(r"__(?:ksymtab|export_symbol)_(\w+)")
_WITH_TABLES = (".data", ".rodata")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedPointer:
    """A pointer in data that both objects have: `offset` bytes into `table`; an empty name is a null pointer."""

    table: str
    offset: int
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Differences of two objects. `changed` are the functions and data that differ, by their section.

    `statics` are the sizes in bytes of the static variables of functions, in the original and in the patched object.
    """

    changed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pointers: tuple[ChangedPointer, ...] = ()
    exported: tuple[str, ...] = ()
    unexported: tuple[str, ...] = ()
    statics: Mapping[str, tuple[Sequence[int], Sequence[int]]] = field(default_factory=dict)


def compare_contents(original: ElfFile, patched: ElfFile) -> Contents:
    """Return the differences of two objects."""
    before, after = _exports(original), _exports(patched)
    return Contents(
        changed=changed_symbols(original, patched),
        pointers=tuple(_changed_pointers(original, patched)),
        exported=tuple(sorted(after - before)),
        unexported=tuple(sorted(before - after)),
        statics=_statics(original, patched),
    )


def _statics(original: ElfFile, patched: ElfFile) -> dict[str, tuple[list[int], list[int]]]:
    found: dict[str, tuple[list[int], list[int]]] = {}
    for number, elf in enumerate((original, patched)):
        for symbol in elf.symbols:
            name, dot, _ = symbol.name.partition(".")
            if symbol.kind == TYPE_OBJECT and symbol.defined and name and dot:
                found.setdefault(name, ([], []))[number].append(symbol.size)
    return found


def _exports(elf: ElfFile) -> set[str]:
    return {found[1] for symbol in elf.symbols if symbol.defined and (found := _EXPORT.fullmatch(symbol.name))}


def _changed_pointers(original: ElfFile, patched: ElfFile) -> Iterator[ChangedPointer]:
    one, other = (_tables(elf) for elf in (original, patched))
    for table in sorted(one.keys() & other.keys()):
        for offset in sorted(one[table].keys() | other[table].keys()):
            old, new = one[table].get(offset, ""), other[table].get(offset, "")
            if old != new:
                yield ChangedPointer(table=table, offset=offset, old=old, new=new)


def _tables(elf: ElfFile) -> dict[str, dict[int, str]]:
    """Return the named pointers in each datum, by offset."""
    found: dict[str, dict[int, str]] = {}
    for symbol in elf.symbols:
        if symbol.kind == TYPE_OBJECT and symbol.defined and elf.sections[symbol.section].name.startswith(_WITH_TABLES):
            found[symbol.name] = {
                entry.offset - symbol.value: name
                for entry in elf.relocations(elf.sections[symbol.section])
                if entry.kind == R_X86_64_64
                and symbol.value <= entry.offset < symbol.value + symbol.size
                and (name := _pointee(elf, entry))
            }
    return found


def _pointee(elf: ElfFile, entry: Relocation) -> str:
    symbol = elf.symbols[entry.symbol]
    if symbol.name or not symbol.defined:
        return symbol.name
    # If each function has a section, a pointer to a static function is one to its section.
    return next(
        (
            one.name
            for one in elf.symbols
            if one.section == symbol.section and one.kind == TYPE_FUNC and one.value == entry.addend
        ),
        "",
    )


def changed_symbols(original: ElfFile, patched: ElfFile) -> dict[str, list[str]]:
    """Return the functions and data that differ between two objects, or that only one has, by their section."""
    one, other = (dict(_contents(elf)) for elf in (original, patched))
    found: dict[str, list[str]] = {}
    for section, name in sorted(one.keys() | other.keys()):
        if one.get((section, name)) != other.get((section, name)):
            found.setdefault(section, []).append(name)
    return found


_Reference = tuple[int, int, "str | bytes"]


def _contents(elf: ElfFile) -> Iterator[tuple[tuple[str, str], tuple[bytes, tuple[_Reference, ...]]]]:
    """Yield (section, name) with its bytes and references; strings by their content, because they move."""
    symbols = [one for one in elf.symbols if one.kind in {TYPE_FUNC, TYPE_OBJECT} and one.defined]
    tables = {number: list(elf.relocations(elf.sections[number])) for number in {one.section for one in symbols}}
    for symbol in symbols:
        if symbol.name.startswith("__pfx_"):
            continue
        section, end = elf.sections[symbol.section], symbol.value + symbol.size
        references = tuple(
            (entry.offset - symbol.value, entry.kind, target_of(elf, entry))
            for entry in tables[symbol.section]
            if symbol.value <= entry.offset < end
        )
        yield (section.name, symbol.name), (elf.content(section)[symbol.value : end], references)


def target_of(elf: ElfFile, entry: Relocation) -> str | bytes:
    """Return what a relocation refers to: a symbol's name, a string's content, or a place in a section."""
    symbol = elf.symbols[entry.symbol]
    if symbol.name or not symbol.defined:
        return symbol.name
    section = elf.sections[symbol.section]
    if ".str" not in section.name:
        return f"{section.name}+{entry.addend}"
    # A relocation relative to the end of its field has the field's length in the addend.
    start = entry.addend + (4 if entry.kind == R_X86_64_PC32 else 0)
    return elf.content(section)[start : start + 256].split(b"\0")[0]
