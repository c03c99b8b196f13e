# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols of a linked kernel or module, and the block of them that came from one source file.

A linked symbol table lists the local symbols of each object after an entry of type FILE with the base name of the
source. Base names repeat (there are many `core.c`), so the block is found by its content: its local functions and
objects are those of the rebuilt object. kpatch's create-diff-object does the same.

LLVM's assembler makes no FILE entry: in a kernel that LLVM's linker made, the symbols of an object of assembly follow
those of the object before it.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from elivepatch.kernel.elf import (
    BIND_LOCAL,
    TYPE_FILE,
    TYPE_FUNC,
    TYPE_OBJECT,
    TYPE_SECTION,
    ElfFile,
    Symbol,
)

# Names that an object has but the linked file may lack: of discarded sections, of the compiler's and the assembler's
# bookkeeping, and the padding symbols that objtool adds to IBT kernels after linking, outside their file's block.
_UNSTABLE = re.compile(
    r"__pfx_|__cfi_|\.L|__UNIQUE_ID_|__exitcall_|__addressable_|__brk_reservation|__initcall_|__quirk_|__ksymtab_"
    r"|__kstrtab|__discard_|\.discard|__pci_fixup|__setup_str_|__func_stack_frame_non_standard|__already_done"
    r"|__trace_check_"
)
# clang writes the name of the function before that of its static variable, with a dot between them.
_UNSTABLE_OF_CLANG = re.compile(r"\w+\.(?:__UNIQUE_ID_|__already_done|__trace_check_)")
_LLD = re.compile(rb"Linker: [^\0]*LLD")


@dataclass(frozen=True)
class Block:
    """Local symbols that one object added to a linked file. `position` is the number of its FILE entry."""

    position: int
    name: str
    symbols: tuple[Symbol, ...]

    @cached_property
    def names(self) -> frozenset[tuple[str, int]]:
        """Names and types of the functions and objects that the rebuilt object must have too."""
        return stable_names(self.symbols)

    @property
    def end(self) -> int:
        """The number of its last symbol, that of the FILE entry if it has none."""
        return self.symbols[-1].number if self.symbols else self.position

    def up_to(self, names: frozenset[tuple[str, int]]) -> Block | None:
        """Return the part of the block that ends before the first other function or object than those of `names`.

        None if that part lacks one of them.
        """
        count = next((n for n, one in enumerate(self.symbols) if stable_names([one]) - names), len(self.symbols))
        part = Block(self.position, self.name, self.symbols[:count])
        return part if part.names == names else None


def stable_names(symbols: Iterable[Symbol]) -> frozenset[tuple[str, int]]:
    """Return name and type of the local functions and objects among `symbols` that survive linking."""
    return frozenset(
        (symbol.name, symbol.kind)
        for symbol in symbols
        if symbol.bind == BIND_LOCAL
        and symbol.kind in {TYPE_FUNC, TYPE_OBJECT}
        and not _UNSTABLE.match(symbol.name)
        and not _UNSTABLE_OF_CLANG.match(symbol.name)
    )


def discarded_by_clang(object_symbols: Iterable[Symbol], block: Block) -> tuple[str, ...]:
    """Return the variables of clang's functions that the object has and its block in the linked file lacks.

    They are bookkeeping that linking drops; create-diff-object only knows it by the names that gcc gives it.
    """
    linked = {symbol.name for symbol in block.symbols}
    names = {one.name for one in object_symbols if one.bind == BIND_LOCAL and _UNSTABLE_OF_CLANG.match(one.name)}
    return tuple(sorted(names - linked))


class LinkedSymbols:
    """Lookup of the symbols of vmlinux or of a module.

    `elf` is the file that the kernel runs or loads. Shipped modules are stripped of their FILE entries; then `listing`
    is the same file from the debug package: its symbols are used, with the sections of `elf`.
    """

    def __init__(self, elf: ElfFile, *, is_vmlinux: bool, listing: ElfFile | None = None) -> None:
        self.elf = elf
        self.is_vmlinux = is_vmlinux
        self.symbols = elf.symbols if listing is None else _with_sections_of(elf, listing)

    @cached_property
    def blocks(self) -> dict[str, list[Block]]:
        """The blocks of local symbols by the base name of their source file."""
        found: dict[str, list[Block]] = defaultdict(list)
        position, name, members = -1, "", list[Symbol]()
        for symbol in self.symbols:
            if symbol.kind == TYPE_FILE or symbol.bind != BIND_LOCAL:
                if position >= 0:
                    found[name].append(Block(position, name, tuple(members)))
                position, name, members = (symbol.number, symbol.name, []) if symbol.kind == TYPE_FILE else (-1, "", [])
                if symbol.bind != BIND_LOCAL:
                    break
            elif position >= 0 and symbol.kind != TYPE_SECTION:
                members.append(symbol)
        else:
            if position >= 0:
                found[name].append(Block(position, name, tuple(members)))
        return dict(found)

    @cached_property
    def named(self) -> dict[str, list[Symbol]]:
        """All defined symbols that kallsyms lists, by name, in the order in which the kernel counts `old_sympos`.

        For vmlinux that is the order of addresses (kernel/livepatch/core.c walks kallsyms), for a module the order of
        its symbol table.
        """
        found: dict[str, list[Symbol]] = defaultdict(list)
        for symbol in self.elf.symbols:
            if symbol.defined and symbol.kind not in {TYPE_FILE, TYPE_SECTION} and symbol.name:
                found[symbol.name].append(symbol)
        if self.is_vmlinux:
            for same in found.values():
                if len(same) > 1:
                    same.sort(key=lambda symbol: symbol.value)
        return dict(found)

    def block_of(self, file_name: str, local_names: frozenset[tuple[str, int]]) -> list[Block]:
        """Return the blocks of `file_name` with exactly `local_names`; with none or several, the block is not known."""
        blocks = self.blocks.get(file_name, [])
        found = [block for block in blocks if block.names == local_names]
        if not found and _LLD.search(self.elf.named(".comment")):
            found = [part for block in blocks if (part := block.up_to(local_names)) is not None]
        return found

    def position(self, symbol: Symbol) -> int:
        """Return the kernel's `old_sympos` of this symbol: 0 if its name is unique, else its position from 1."""
        places = [(one.section, one.value) for one in self.named[symbol.name]]
        return 0 if len(places) == 1 else places.index((symbol.section, symbol.value)) + 1

    def sealed(self, section: int) -> frozenset[int]:
        """Return the addresses (in a module: offsets in `section`) of functions whose ENDBR the kernel overwrites.

        The list is objtool's .ibt_endbr_seal: offsets relative to their own place (arch/x86/kernel/alternative.c,
        apply_seal_endbr). The shipped code never calls these functions through a pointer.
        """
        if self.is_vmlinux:
            return self._sealed_in_vmlinux
        table = self.elf.by_name.get(".ibt_endbr_seal")
        if table is None:
            return frozenset()
        found = set()
        for entry in self.elf.relocations(table):
            # Relocations count the symbols of their own file; `listing` may have others in front of them.
            symbol = self.elf.symbols[entry.symbol]
            if symbol.section == section:
                found.add(symbol.value + entry.addend)
        return frozenset(found)

    @cached_property
    def _sealed_in_vmlinux(self) -> frozenset[int]:
        bounds = [self.named.get(name, []) for name in ("__ibt_endbr_seal", "__ibt_endbr_seal_end")]
        if not all(bounds):
            return frozenset()
        start, stop = bounds[0][0], bounds[1][0]
        section = self.elf.sections[start.section]
        raw = self.elf.content(section)[start.value - section.address : stop.value - section.address]
        relative = struct.unpack(f"<{len(raw) // 4}i", raw[: len(raw) // 4 * 4])
        return frozenset(start.value + 4 * number + offset for number, offset in enumerate(relative))


def _with_sections_of(elf: ElfFile, listing: ElfFile) -> tuple[Symbol, ...]:
    numbers = [elf.by_name[one.name].number if one.name in elf.by_name else 0 for one in listing.sections]
    return tuple(
        symbol._replace(section=numbers[symbol.section]) if symbol.defined else symbol for symbol in listing.symbols
    )
