# SPDX-License-Identifier: GPL-2.0-or-later
"""References of the changed code, checked before anything is linked.

The kernel's modpost, and our check of the finished module, would find the same problems: a symbol that is not exported,
a namespace that is not imported, a static key that create-diff-object left behind, a pointer to a sealed entry. The
intermediate sections are those of kpatch's kpatch-intermediate.h (x86-64).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from elivepatch.build.base.store import Base
from elivepatch.build.checks.functions import pointers_of, text_at
from elivepatch.build.checks.lifetime import (
    Reference,
    check_lifetimes,
    check_own,
    check_plain,
    distance_of,
    holds_code_or_data,
    symbol_at,
)
from elivepatch.build.escapes.image import Outside
from elivepatch.kernel.elf import BIND_GLOBAL, BIND_LOCAL, R_X86_64_PLT32, TYPE_FUNC, ElfFile, Relocation
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, Problem
from elivepatch.model.kernel import VMLINUX

_RELOCATION_BYTES, _RELOCATION_DEST, _RELOCATION_TYPE, _RELOCATION_ADDEND = 40, 0, 8, 16
_RELOCATION_OBJECT, _RELOCATION_SYMBOL = 24, 32
_SYMBOL_BYTES, _SYMBOL_POSITION, _SYMBOL_NAME, _SYMBOL_OBJECT = 40, 8, 24, 32
HOLDING_POINTERS = (".text", ".data", ".rodata", ".kpatch.callbacks")
"""Prefixes of the sections whose pointers to functions may be called."""

# The module's own .mod.c defines these.
_OWN = {"__this_module"}
_NAMESPACES_QUOTED_SINCE = (6, 13)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A field in code or data of a diff object that holds the address of a symbol outside it."""

    object: str
    name: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relocated:
    """An entry of .kpatch.relocations; `place` leads to the field, `part` is the object that the field belongs to."""

    place: Relocation
    kind: int
    addend: int
    part: str
    object: str
    name: str
    position: int


@dataclass(frozen=True)
class DiffObject:
    """An object that create-diff-object made."""

    path: Path

    @cached_property
    def elf(self) -> ElfFile:
        """The file itself."""
        return ElfFile(self.path)

    @cached_property
    def defined(self) -> frozenset[str]:
        """Global symbols that the object defines."""
        return frozenset(one.name for one in self.elf.symbols if one.defined and one.bind >= BIND_GLOBAL)

    @cached_property
    def undefined(self) -> dict[str, bool]:
        """Symbols that the kernel must resolve; true for a local symbol that create-diff-object left out."""
        return {one.name: one.bind == BIND_LOCAL for one in self.elf.symbols if one.name and one.section == 0}

    @property
    def has_callbacks(self) -> bool:
        """True if the kernel calls functions of the object before or after a transition."""
        return any(one.name.startswith(".kpatch.callbacks.") for one in self.elf.sections)

    def pointers(self) -> Iterator[Pointer]:
        """Yield the pointers to functions and data of the kernel that the new code or data contains."""
        yield from self._plain()
        yield from self._resolved_by_livepatch()

    def _plain(self) -> Iterator[Pointer]:
        for section in self.elf.sections:
            if section.name.startswith(HOLDING_POINTERS):
                for entry in self.elf.relocations(section):
                    symbol = self.elf.symbols[entry.symbol]
                    if symbol.section == 0 and symbol.name and entry.kind != R_X86_64_PLT32:
                        yield Pointer(object=VMLINUX, name=symbol.name, position=0)

    def _resolved_by_livepatch(self) -> Iterator[Pointer]:
        for one in self._relocated():
            section = self.elf.symbols[one.place.symbol].section
            if one.kind == R_X86_64_PLT32 or section >= len(self.elf.sections):
                continue
            if self.elf.sections[section].name.startswith(HOLDING_POINTERS):
                yield Pointer(object=one.object, name=one.name, position=one.position)

    def references(self) -> Iterator[Reference]:
        """Yield the references of the new code and data that livepatch resolves."""
        for one in self._relocated():
            place = self.elf.symbols[one.place.symbol]
            if not place.defined or not holds_code_or_data(self.elf, self.elf.sections[place.section]):
                continue
            yield Reference(
                holder=symbol_at(self.elf, place.section, place.value + one.place.addend),
                part=one.part,
                object=one.object,
                name=one.name,
                position=one.position,
                distance=distance_of(one.kind, one.addend),
            )

    def resolved(self) -> dict[tuple[str, int], Outside]:
        """Return the symbols that livepatch resolves, by section and offset of the field."""
        found = {}
        for one in self._relocated():
            place = self.elf.symbols[one.place.symbol]
            if place.defined:
                found[self.elf.sections[place.section].name, place.value + one.place.addend] = Outside(
                    one.object, one.name
                )
        return found

    def _relocated(self) -> Iterator[_Relocated]:
        table, symbols = (self.elf.by_name.get(name) for name in (".kpatch.relocations", ".kpatch.symbols"))
        if table is None or symbols is None:
            return
        raw, names = self.elf.content(table), self.elf.content(symbols)
        strings = {offset: text_at(self.elf, entry) for offset, entry in pointers_of(self.elf, symbols).items()}
        fields = pointers_of(self.elf, table)
        for start in range(0, len(raw) - len(raw) % _RELOCATION_BYTES, _RELOCATION_BYTES):
            place, target = fields.get(start + _RELOCATION_DEST), fields.get(start + _RELOCATION_SYMBOL)
            if place is None or target is None:
                continue
            yield _Relocated(
                place=place,
                kind=_number(raw, start + _RELOCATION_TYPE, 4),
                addend=int.from_bytes(raw[start + _RELOCATION_ADDEND :][:8], "little", signed=True),
                part=text_at(self.elf, fields.get(start + _RELOCATION_OBJECT)) or VMLINUX,
                object=strings.get(target.addend + _SYMBOL_OBJECT, VMLINUX),
                name=strings.get(target.addend + _SYMBOL_NAME, ""),
                position=_number(names, target.addend + _SYMBOL_POSITION, 8),
            )


def check_references(outputs: Sequence[Path], base: Base) -> None:
    """Raise BuildStopped if the diff objects `outputs` need something that the kernel of `base` does not have.

    The codes are `undefined-symbol`, `freed-memory`, `module-symbol`, `jump-label` and `sealed-endbr`.
    """
    objects = [DiffObject(path) for path in outputs]
    _check_symbols(objects, base)
    for one in objects:
        check_own(one.elf)
        check_lifetimes(one.references(), base)
    if base.ibt:
        _check_sealed(objects, base)


def _check_symbols(objects: Sequence[DiffObject], base: Base) -> None:
    defined = _OWN.union(*(one.defined for one in objects))
    namespaces = {name for one in objects for name in one.elf.modinfo.get("import_ns", [])}
    missing, closed = [], []
    for name, local in sorted((name, local) for one in objects for name, local in one.undefined.items()):
        export = base.exports.get(name)
        if export is None and local:
            raise BuildStopped(added_key(name))
        if export is None and name not in defined:
            missing.append(name)
        elif export is not None and name not in defined:
            check_plain(name, export)
        if export is not None and export.namespace and export.namespace not in namespaces:
            closed.append((name, export.namespace))
    if missing:
        raise BuildStopped(undefined(missing))
    if closed:
        raise BuildStopped(not_imported(*closed[0], release=base.release))


def _check_sealed(objects: Sequence[DiffObject], base: Base) -> None:
    for pointer in sorted({pointer for one in objects for pointer in one.pointers()}, key=repr):
        check_unsealed(pointer, base)


def check_unsealed(pointer: Pointer, base: Base) -> None:
    """Raise BuildStopped with `sealed-endbr` for a pointer to a function with a sealed ENDBR: a call would be a #CP."""
    linked = base.parent(pointer.object)
    same = linked.named.get(pointer.name, [])
    symbol = same[max(pointer.position - 1, 0)] if len(same) >= pointer.position and same else None
    if symbol is not None and symbol.kind == TYPE_FUNC and symbol.value in linked.sealed(symbol.section):
        raise BuildStopped(
            problem("sealed-endbr", f"The new code takes the address of {pointer.name}, whose entry is sealed.")
        )


def added_key(name: str) -> Problem:
    """Return the problem of a missing local symbol: create-diff-object omits symbols that only jump labels refer to."""
    return problem("jump-label", f"The patched code tests {name}, a static key that the series adds.")


def undefined(names: Sequence[str]) -> Problem:
    """Return the problem of symbols that the kernel does not have or export."""
    return problem(
        "undefined-symbol",
        f"The patched code uses {names[0]}, which this kernel does not have or export.",
        excerpt="\n".join(names[:12]),
    )


def not_imported(name: str, namespace: str, *, release: str) -> Problem:
    """Return the problem of an exported symbol whose namespace is not imported, with the line to add in this kernel."""
    written = f'"{namespace}"' if version_of(release) >= _NAMESPACES_QUOTED_SINCE else namespace
    return problem(
        "undefined-symbol",
        f"The patched code uses {name} of the namespace {namespace} without importing it.",
        excerpt=f"Add MODULE_IMPORT_NS({written}); to the patched file.",
    )


def _number(raw: bytes, start: int, size: int) -> int:
    return int.from_bytes(raw[start : start + size], "little")


def version_of(release: str) -> tuple[int, ...]:
    """Return the first two numbers of a release, which determine the features of its kernel."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])
