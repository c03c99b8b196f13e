# SPDX-License-Identifier: GPL-2.0-or-later
"""Fidelity: proof that the rebuilt original is the code that the host runs.

Every function that will be patched is compared with the shipped vmlinux or module: byte for byte, except the fields
that relocations fill. A difference of any cause - compiler, configuration, a distribution's patch - stops the build
before a wrong module exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

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
from elivepatch.kernel.symbols import Block, LinkedSymbols, stable_names
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped


@dataclass(frozen=True)
class Located:
    """An object located in its parent: the block of its local symbols, and the symbol of each function there."""

    block: Block
    functions: dict[str, Symbol]


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
    return Located(blocks[0], functions)


def check_fidelity(
    plain: ElfFile, linked: LinkedSymbols, located: Located, patched: Iterable[str], *, source: str, parent: str
) -> None:
    """Raise BuildStopped with `fidelity` if a function of `patched` is not what the parent holds."""
    ours = {symbol.name: symbol for symbol in _functions(plain)}
    for name in patched:
        symbol, shipped = ours.get(name), located.functions.get(name)
        if symbol is None or shipped is None:
            raise BuildStopped(problem("fidelity", f"{parent} has no function {name} of {source}."))
        if symbol.bind == BIND_WEAK and shipped.bind != BIND_WEAK:
            raise BuildStopped(
                problem("weak-overridden", f"{name} of {source} is weak, and this kernel has another function instead.")
            )
        if not _same_code(plain, symbol, linked.elf, shipped):
            raise BuildStopped(
                problem("fidelity", f"The rebuilt {name} of {source} is not the one that {parent} holds.")
            )


def _functions(plain: ElfFile) -> list[Symbol]:
    return [symbol for symbol in plain.symbols if symbol.kind == TYPE_FUNC and symbol.defined]


def _local_code_matches(plain: ElfFile, linked: LinkedSymbols, block: Block) -> bool:
    shipped = {symbol.name: symbol for symbol in block.symbols}
    return all(
        symbol.name in shipped and _same_code(plain, symbol, linked.elf, shipped[symbol.name])
        for symbol in _functions(plain)
        if symbol.bind == BIND_LOCAL
    )


def _same_code(ours: ElfFile, one: Symbol, theirs: ElfFile, other: Symbol) -> bool:
    if one.size != other.size:
        return False
    section = ours.sections[one.section]
    mine, its = bytearray(_code(ours, section, one)), bytearray(_code(theirs, theirs.sections[other.section], other))
    for entry in ours.relocations(section):
        start = entry.offset - one.value
        size = RELOCATION_BYTES.get(entry.kind, 8)
        if -size < start < one.size:
            first, last = max(start, 0), min(start + size, one.size)
            mine[first:last] = its[first:last] = bytes(last - first)
    return mine == its


def _code(file: ElfFile, section: Section, symbol: Symbol) -> bytes:
    start = symbol.value - section.address
    return file.content(section)[start : start + symbol.size]
