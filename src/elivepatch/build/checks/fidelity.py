# SPDX-License-Identifier: GPL-2.0-or-later
"""Fidelity: proof that the rebuilt original is the code that the host runs.

Every function that will be patched is compared with the shipped vmlinux or module: byte for byte, except the fields
that relocations fill; those must lead to the same symbols, strings and constants (checks/targets.py). A difference of
any cause - compiler, configuration, a distribution's patch - stops the build before a wrong module exists.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from elivepatch.build.checks.targets import Targets
from elivepatch.kernel.elf import (
    BIND_LOCAL,
    BIND_WEAK,
    RELOCATION_BYTES,
    TYPE_FUNC,
    TYPE_OBJECT,
    ElfFile,
    Section,
    Symbol,
)
from elivepatch.kernel.symbols import Block, LinkedSymbols, discarded_by_clang, stable_names
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped


@dataclass(frozen=True)
class Located:
    """An object located in its parent: the block of its local symbols, and the symbol of each function there.

    `discarded` are variables of the object that linking drops and that create-diff-object does not know as such.
    """

    block: Block
    functions: dict[str, Symbol]
    discarded: tuple[str, ...] = ()


def locate(plain: ElfFile, linked: LinkedSymbols, *, source: str, parent: str) -> Located:
    """Find the object's symbols in its parent.

    Raises BuildStopped with `symbols` if no block matches and `duplicate-symbol` where several do.
    """
    blocks = linked.block_of(PurePosixPath(source).name, stable_names(plain.symbols))
    if not any(symbol.kind in {TYPE_FUNC, TYPE_OBJECT} for block in blocks for symbol in block.symbols):
        # Objects without local functions and data: everything in them is global, so that these blocks do not matter.
        blocks = blocks[:1]
    if len(blocks) > 1:
        blocks = [block for block in blocks if _local_code_matches(plain, linked, block)]
    if len(blocks) != 1:
        code = "duplicate-symbol" if blocks else "symbols"
        found = f"{len(blocks)} objects" if blocks else "no object"
        raise BuildStopped(problem(code, f"{parent} holds {found} with the local symbols of {source}."))
    local = {symbol.name: symbol for symbol in blocks[0].symbols if symbol.kind == TYPE_FUNC}
    functions = {}
    for symbol in _functions(plain):
        if symbol.bind == BIND_LOCAL:
            found_symbol = local.get(symbol.name)
        else:
            same = linked.named.get(symbol.name, [])
            found_symbol = next((one for one in same if one.bind != BIND_LOCAL), None)
        if found_symbol is not None:
            functions[symbol.name] = found_symbol
    return Located(blocks[0], functions, discarded_by_clang(plain.symbols, blocks[0]))


class Match(enum.StrEnum):
    """Result of the comparison of a rebuilt function with the shipped one."""

    SAME = "same"
    DIFFERS = "differs"
    ABSENT = "absent"
    WEAK = "weak"
    """The object's function is weak, and the parent has another one in its place."""
    REFERS = "refers"
    """The bytes are the same, but not what they refer to."""


def compare_functions(plain: ElfFile, linked: LinkedSymbols, located: Located) -> Iterator[tuple[Symbol, Match]]:
    """Yield each function of the object with how it compares with the one that the parent holds.

    objtool's symbols for the padding before a function are left out: they are no functions of the source.
    """
    code, targets = _Code(plain), Targets(plain, linked, located.block)
    for symbol in _functions(plain):
        if not symbol.name.startswith("__pfx_"):
            match = _match(code, symbol, linked, located.functions.get(symbol.name))
            if match is Match.SAME and targets.differing(symbol, located.functions[symbol.name]) is not None:
                match = Match.REFERS
            yield symbol, match


def _match(code: _Code, symbol: Symbol, linked: LinkedSymbols, shipped: Symbol | None) -> Match:
    if shipped is None:
        return Match.ABSENT
    if symbol.bind == BIND_WEAK and shipped.bind != BIND_WEAK:
        return Match.WEAK
    return Match.SAME if code.is_same(symbol, linked.elf, shipped) else Match.DIFFERS


def check_fidelity(
    plain: ElfFile, linked: LinkedSymbols, located: Located, patched: Iterable[str], *, source: str, parent: str
) -> None:
    """Raise BuildStopped with `fidelity` if a function of `patched` is not what the parent holds."""
    ours, code = {symbol.name: symbol for symbol in _functions(plain)}, _Code(plain)
    targets = Targets(plain, linked, located.block)
    for name in patched:
        symbol = ours.get(name)
        found = Match.ABSENT if symbol is None else _match(code, symbol, linked, located.functions.get(name))
        if found is Match.ABSENT:
            raise BuildStopped(problem("fidelity", f"{parent} has no function {name} of {source}."))
        if found is Match.WEAK:
            raise BuildStopped(
                problem("weak-overridden", f"{name} of {source} is weak, and this kernel has another function instead.")
            )
        if found is Match.DIFFERS:
            raise BuildStopped(
                problem("fidelity", f"The rebuilt {name} of {source} is not the one that {parent} holds.")
            )
        if symbol is not None and (other := targets.differing(symbol, located.functions[name])) is not None:
            sentence = (
                f"The rebuilt {name} of {source} refers to {other}, the one that {parent} holds to something else."
            )
            raise BuildStopped(problem("fidelity", sentence))


def _functions(plain: ElfFile) -> list[Symbol]:
    return [symbol for symbol in plain.symbols if symbol.kind == TYPE_FUNC and symbol.defined]


def _local_code_matches(plain: ElfFile, linked: LinkedSymbols, block: Block) -> bool:
    shipped, code = {symbol.name: symbol for symbol in block.symbols}, _Code(plain)
    return all(
        symbol.name in shipped and code.is_same(symbol, linked.elf, shipped[symbol.name])
        for symbol in _functions(plain)
        if symbol.bind == BIND_LOCAL
    )


@dataclass(frozen=True)
class _Code:
    """The code of a rebuilt object, with the places that relocations fill."""

    file: ElfFile

    @cached_property
    def _places(self) -> dict[int, list[tuple[int, int]]]:
        """Offset and length of each place that a relocation fills, sorted, by the number of the section."""
        return {}

    def is_same(self, one: Symbol, theirs: ElfFile, other: Symbol) -> bool:
        """Return if two functions have the same bytes where no relocation fills any."""
        if one.size != other.size:
            return False
        section = self.file.sections[one.section]
        mine = bytearray(_code(self.file, section, one))
        its = bytearray(_code(theirs, theirs.sections[other.section], other))
        places = self._filled(section)
        # The longest place has 8 bytes, and may begin before the function.
        for offset, size in places[bisect_left(places, (one.value - 8, 0)) :]:
            start = offset - one.value
            if start >= one.size:
                break
            first, last = max(start, 0), min(start + size, one.size)
            if first < last:
                mine[first:last] = its[first:last] = bytes(last - first)
        return mine == its

    def _filled(self, section: Section) -> list[tuple[int, int]]:
        if section.number not in self._places:
            self._places[section.number] = sorted(
                (entry.offset, RELOCATION_BYTES.get(entry.kind, 8)) for entry in self.file.relocations(section)
            )
        return self._places[section.number]


def _code(file: ElfFile, section: Section, symbol: Symbol) -> bytes:
    return file.part(section, symbol.value - section.address, symbol.size)
