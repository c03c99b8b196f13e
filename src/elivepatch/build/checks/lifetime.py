# SPDX-License-Identifier: GPL-2.0-or-later
"""Lifetimes of what the new code refers to: it must be there when the code runs, not only when the livepatch is loaded.

kallsyms keeps the names of start-up code and data long after the memory was freed (arch/x86/mm/init.c, free_initmem;
kernel/module/main.c, do_free_init), so livepatch resolves them; in the kernel's own build, modpost would warn. A symbol
of a module is there as long as the module is: livepatch takes no reference to it. It resolves the references of a
module's functions when that module is loaded, and those of vmlinux when the livepatch is (kernel/livepatch/core.c).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from elivepatch.build.base.store import Base
from elivepatch.kernel.elf import R_X86_64_PC32, R_X86_64_PC64, R_X86_64_PLT32, ElfFile, Section, Symbol
from elivepatch.kernel.exports import Export
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.model.kernel import VMLINUX

_RELATIVE = frozenset((R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_PC64))
_KEPT_DATA = (".data", ".rodata", ".bss", ".kpatch.callbacks")
# create-diff-object takes all of it along. Of a function with a section of its own, gcc puts the table of a `switch`
# into a section of its own too; here are those of start-up functions, which no code of the livepatch uses.
# kpatch's own start-up code may use it in the finished module.
_TABLES = ".rodata"
_OWN_SECTION = (".text.", ".data.", ".rodata.", ".kpatch.callbacks")
_START = (".init",)
_START_AND_END = (".init", ".exit")
# The linker script's bounds of freed memory: code compares addresses with them and reads nothing there.
_BOUNDS = frozenset(("__init_begin", "__init_end", "_sinittext", "_einittext"))
# A displacement counts from the end of the instruction: four bytes on, and as much as its immediate operand.
_DISPLACED = (0, 4, 5, 6, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A field in new code or data that livepatch fills in with the address of a symbol outside the livepatch.

    `holder` is the function or variable with the field, `part` the object that it belongs to; `object`, `name` and
    `position` are the symbol's, `distance` is the number of bytes from the symbol to the place that is meant.
    """

    holder: str
    part: str
    object: str
    name: str
    position: int
    distance: int


def distance_of(kind: int, addend: int) -> int:
    """Return the distance of a relocation's target from its symbol; relative ones count from the field's end."""
    return max(addend + 4 if kind in _RELATIVE else addend, 0)


def symbol_at(elf: ElfFile, section: int, offset: int) -> str:
    """Return the name of the function or variable at an offset of a section, the section's if it has none there."""
    around = [
        one
        for one in elf.symbols
        if one.section == section and one.name and one.value <= offset < one.value + max(one.size, 1)
    ]
    if around:
        return min(around, key=lambda one: one.size).name
    return elf.sections[section].name if section < len(elf.sections) else ""


def holds_code_or_data(elf: ElfFile, section: Section) -> bool:
    """Return whether what a section holds stays and is used by the livepatch's functions."""
    stays = not section.name.startswith(_START_AND_END)
    if section.name == _TABLES:
        return _is_used(elf, section)
    return stays and (section.executable or section.name.startswith(_KEPT_DATA))


def _is_used(elf: ElfFile, section: Section) -> bool:
    """Return whether code or data with a section of its own, as all that a series changes has, refers to a section."""
    return any(
        elf.symbols[entry.symbol].section == section.number
        for other in elf.sections
        if other.name.startswith(_OWN_SECTION) and other.name != ".text.unlikely"
        for entry in elf.relocations(other)
    )


def check_lifetimes(references: Iterable[Reference], base: Base) -> None:
    """Raise BuildStopped with `freed-memory` or `module-symbol` for a reference to what is freed or may be unloaded.

    A jump into a part of an old function raises it with `module-check`.
    """
    for one in references:
        _check_part(one)
        _check_owner(one, base)
        if (found := _symbol_of(one, base)) is not None:
            _check_freed(one, found, base)


def check_own(elf: ElfFile) -> None:
    """Raise BuildStopped with `freed-memory` if new code refers to start-up code or data that the series adds."""
    for section in elf.sections:
        if not holds_code_or_data(elf, section):
            continue
        for entry in elf.relocations(section):
            symbol = elf.symbols[entry.symbol]
            if not symbol.defined or not elf.sections[symbol.section].name.startswith(_START):
                continue
            target = symbol.name or symbol_at(elf, symbol.section, distance_of(entry.kind, entry.addend))
            holder = symbol_at(elf, section.number, entry.offset)
            where = elf.sections[symbol.section].name
            sentence = (
                f"{_plain(holder)} uses {_plain(target)} of {where}, which is freed after the livepatch is loaded."
            )
            raise BuildStopped(problem("freed-memory", sentence))


def check_plain(name: str, export: Export) -> None:
    """Raise BuildStopped with `module-symbol` if a module exports a symbol that the livepatch itself would need."""
    if export.owner != VMLINUX:
        owner = PurePosixPath(export.owner).name.replace("-", "_")
        sentence = f"The new code uses {name} of the module {owner}: the livepatch could only be loaded after it."
        raise BuildStopped(problem("module-symbol", sentence))


def _check_part(one: Reference) -> None:
    """Raise BuildStopped if new code would go on in the unlikely part of an old function, which leads back into it."""
    if one.name.endswith(".cold"):
        sentence = f"The new {_plain(one.holder)} jumps to {one.name} of {one.object}, which goes on in the old code."
        raise BuildStopped(problem("module-check", sentence))


def _check_owner(one: Reference, base: Base) -> None:
    if one.object in {one.part, VMLINUX}:
        return
    if one.part == VMLINUX:
        sentence = f"{_plain(one.holder)} is the kernel's own code and uses {one.name} of the module {one.object}."
        raise BuildStopped(problem("module-symbol", sentence))
    if one.object not in _held(one.part, base):
        sentence = (
            f"{_plain(one.holder)} of the module {one.part} uses {one.name} of the module {one.object}, "
            f"which {one.part} does not depend on."
        )
        raise BuildStopped(problem("module-symbol", sentence))


def _held(module: str, base: Base) -> set[str]:
    """Return the modules that the kernel loads before `module` and keeps as long as that is loaded."""
    found, wanted = set[str](), [module]
    while wanted:
        current = wanted.pop()
        if current not in base.module_files:
            continue
        named = ",".join(base.parent(current).elf.modinfo.get("depends", []))
        others = {name.replace("-", "_") for name in named.split(",") if name} - found
        found |= others
        wanted += others
    return found


def _symbol_of(one: Reference, base: Base) -> Symbol | None:
    if one.object != VMLINUX and one.object not in base.module_files:
        return None
    same = base.parent(one.object).named.get(one.name, [])
    return same[max(one.position - 1, 0)] if len(same) >= max(one.position, 1) else None


def _check_freed(one: Reference, symbol: Symbol, base: Base) -> None:
    linked = base.parent(one.object)
    if symbol.name in _BOUNDS or not symbol.defined:
        return
    section = linked.elf.sections[symbol.section]
    meant = symbol.value + one.distance
    if not any(_is_freed(linked, section, address) for address in (symbol.value, meant)):
        return
    if one.part == one.object and _refers_already(linked, one.holder, symbol, meant):
        return
    owner = "the kernel" if linked.is_vmlinux else f"the module {one.object}"
    sentence = (
        f"{_plain(one.holder)} uses {_plain(one.name)} of {section.name}, which is freed after {owner} has started."
    )
    raise BuildStopped(problem("freed-memory", sentence))


def _is_freed(linked: LinkedSymbols, section: Section, address: int) -> bool:
    if not linked.is_vmlinux:
        # The code for the end of a module stays as long as the module (CONFIG_MODULE_UNLOAD, which livepatch needs).
        return section.name.startswith(_START)
    if section.name.startswith(".data..percpu"):
        return False  # its addresses are offsets into the copies of the processors
    bounds = [linked.named.get(name, []) for name in ("__init_begin", "__init_end")]
    between = all(bounds) and bounds[0][0].value <= address < bounds[1][0].value
    return between or section.name.startswith(_START_AND_END)


def _refers_already(linked: LinkedSymbols, function: str, symbol: Symbol, meant: int) -> bool:
    """Return whether the shipped function refers to the same place: then it knows when it may (`__ref`)."""
    names = {_plain(function), f"{_plain(function)}.cold", function}
    places = [one for name in names for one in linked.named.get(name, []) if one.size]
    return any(meant in set(_addresses(linked, one, symbol)) for one in places)


def _addresses(linked: LinkedSymbols, function: Symbol, target: Symbol) -> Iterator[int]:
    """Yield the places that the code of a function may refer to, as addresses in the section of `target`."""
    elf, section = linked.elf, linked.elf.sections[function.section]
    if not linked.is_vmlinux:
        for entry in elf.relocations(section):
            named = elf.symbols[entry.symbol]
            if named.section == target.section and 0 <= entry.offset - function.value < function.size:
                yield named.value + distance_of(entry.kind, entry.addend)
        return
    start = function.value - section.address
    code = elf.content(section)[start : start + function.size]
    for at in range(len(code) - 3):
        value = struct.unpack_from("<i", code, at)[0]
        yield value & (1 << 64) - 1
        yield from (function.value + at + value + more for more in _DISPLACED)


def _plain(name: str) -> str:
    """Return a name without what the compiler appends to it."""
    return name.split(".")[0] if not name.startswith(".") else name
