# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel as it was shipped: ranges of its code and constants, self-patched places, symbols, structures.

All addresses are those of vmlinux; the guest's are higher by the slide that KASLR chose.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from elivepatch.kernel.elf import TYPE_FILE, TYPE_SECTION, ElfFile, Symbol
from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.layout import Structure, read_layouts
from elivepatch.trial.outside.sites import Site, SiteKind, Sites

STRUCTURES = (
    "klp_ops",
    "klp_func",
    "klp_patch",
    "klp_object",
    "ftrace_ops",
    "module",
    "module_memory",
    "module_layout",
)

_JUMP = struct.Struct("<iiq")  # struct jump_entry: code, target, key
_STATIC_CALL = struct.Struct("<ii")  # struct static_call_site: addr, key
_ENTRIES = ("ftrace_call", "ftrace_regs_call")
_STATIC_CALL_PREFIX = "__SCT__"


@dataclass(frozen=True)
class ShippedKernel:
    """A kernel's vmlinux. Its properties raise NotSeen if something that every kernel has is missing."""

    elf: ElfFile

    @classmethod
    def of(cls, vmlinux: Path) -> ShippedKernel:
        """Return the kernel in a file, which is read when something of it is needed."""
        return cls(ElfFile(vmlinux))

    def prepare(self) -> None:
        """Read what every look needs; takes about a second."""
        _ = self.named, self.sites, self.structures

    @cached_property
    def named(self) -> Mapping[str, tuple[Symbol, ...]]:
        """The symbols of each name in the order of their addresses, which is that of `old_sympos`."""
        found: dict[str, list[Symbol]] = defaultdict(list)
        for symbol in self.elf.symbols:
            if symbol.defined and symbol.kind not in {TYPE_FILE, TYPE_SECTION} and symbol.name:
                found[symbol.name].append(symbol)
        return {name: tuple(sorted(same, key=lambda one: one.value)) for name, same in found.items()}

    def address(self, name: str) -> int:
        """Return the address of a symbol that only one thing has."""
        found = self.find(name)
        if found is None:
            raise NotSeen(f"the kernel's vmlinux has no symbol {name}")
        return found

    def find(self, name: str) -> int | None:
        """Return the address of a symbol, None if there is none or several."""
        found = self.named.get(name, ())
        return found[0].value if len({one.value for one in found}) == 1 else None

    @cached_property
    def ranges(self) -> Mapping[str, tuple[int, int]]:
        """Start and end of the kernel's code and of its constants."""
        return {
            "text": (self.address("_stext"), self.address("_etext")),
            "rodata": (self.address("__start_rodata"), self.address("__end_rodata")),
        }

    @cached_property
    def structures(self) -> Mapping[str, Structure]:
        """Layouts of the structures that are followed in the guest; empty if the kernel has no BTF."""
        return read_layouts(self.elf.named(".BTF"), STRUCTURES)

    @cached_property
    def sites(self) -> Sites:
        """The places that the kernel patches itself."""
        start, stop = self.ranges["text"]
        return Sites.of(site for site in self._places() if start <= site.address < stop)

    def _places(self) -> Iterator[Site]:
        for (address,) in struct.iter_unpack("<Q", self._table("__start_mcount_loc", "__stop_mcount_loc", 8)):
            yield Site(address, SiteKind.FTRACE)
        start = self.find("__start___jump_table") or 0
        yield from jump_labels(self._table("__start___jump_table", "__stop___jump_table", _JUMP.size), start)
        start = self.find("__start_static_call_sites") or 0
        calls = self._table("__start_static_call_sites", "__stop_static_call_sites", _STATIC_CALL.size)
        yield from static_calls(calls, start)
        for name, symbols in self.named.items():
            if name in _ENTRIES:
                yield from (Site(symbol.value, SiteKind.FTRACE_ENTRY) for symbol in symbols)
            elif name.startswith(_STATIC_CALL_PREFIX):
                yield from (Site(symbol.value, SiteKind.STATIC_CALL) for symbol in symbols)

    def _table(self, start: str, stop: str, unit: int) -> bytes:
        first, last = self.find(start), self.find(stop)
        if first is None or last is None:
            return b""
        return self.content(first, (last - first) // unit * unit)

    def content(self, address: int, size: int) -> bytes:
        """Return bytes of the file by their address, empty if no section has them."""
        for section in self.elf.sections:
            if section.loaded and section.address <= address and address + size <= section.address + section.size:
                return self.elf.part(section, address - section.address, size)
        return b""

    def name_at(self, address: int) -> str:
        """Return the symbol that an address belongs to, as `name+0x12`; the address itself if there is none."""
        symbols = ((one.value, name) for name, same in self.named.items() for one in same if one.value <= address)
        value, name = max(symbols, default=(0, ""))
        return f"{name}+{address - value:#x}" if name else f"{address:#x}"


def jump_labels(table: bytes, start: int) -> Iterator[Site]:
    """Yield the places in a table of jump labels that is at the address `start`."""
    for number, (code, target, _key) in enumerate(_JUMP.iter_unpack(table)):
        at = start + number * _JUMP.size
        yield Site(at + code, SiteKind.JUMP_LABEL, at + 4 + target)


def static_calls(table: bytes, start: int) -> Iterator[Site]:
    """Yield the places in a table of static calls that is at the address `start`."""
    for number, (code, _key) in enumerate(_STATIC_CALL.iter_unpack(table)):
        yield Site(start + number * _STATIC_CALL.size + code, SiteKind.STATIC_CALL)
