# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions of a linked kernel or module that ftrace can redirect: those in its table of entry calls.

The table is `__mcount_loc`: in vmlinux a range of addresses between two symbols, in a module a section with relocations
(scripts/recordmcount, gcc -mrecord-mcount). kernel/trace/ftrace.c reads it at boot and when a module is loaded.
"""

from __future__ import annotations

import struct
from functools import cached_property

from elivepatch.kernel.elf import ElfFile, Symbol
from elivepatch.kernel.symbols import LinkedSymbols

# The call is at the entry, after an ENDBR of four bytes if the kernel has IBT.
_ENTRY_BYTES = 16


class TracedFunctions:
    """Table of the entry calls of vmlinux or one module."""

    def __init__(self, linked: LinkedSymbols) -> None:
        self._linked = linked

    def contains(self, symbol: Symbol) -> bool:
        """Return True if ftrace can redirect the function."""
        return any((symbol.section, symbol.value + offset) in self._places for offset in range(_ENTRY_BYTES))

    @cached_property
    def _places(self) -> frozenset[tuple[int, int]]:
        return frozenset(self._in_vmlinux() if self._linked.is_vmlinux else self._in_module(self._linked.elf))

    def _in_vmlinux(self) -> set[tuple[int, int]]:
        start, stop = (self._linked.named[name][0] for name in ("__start_mcount_loc", "__stop_mcount_loc"))
        section = self._linked.elf.sections[start.section]
        raw = self._linked.elf.content(section)[start.value - section.address : stop.value - section.address]
        addresses = struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8])
        sections = [one for one in self._linked.elf.sections if one.executable]
        return {
            (one.number, address)
            for one in sections
            for address in addresses
            if one.address <= address < one.address + one.size
        }

    @staticmethod
    def _in_module(elf: ElfFile) -> set[tuple[int, int]]:
        places = set()
        for section in elf.sections:
            if section.name == "__mcount_loc":
                for entry in elf.relocations(section):
                    symbol = elf.symbols[entry.symbol]
                    places.add((symbol.section, symbol.value + entry.addend))
        return places
