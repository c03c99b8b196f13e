# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of a stopped guest: its RAM, and the addresses that its processors' own page tables give it.

The page tables are followed from the CR3 of each processor, because they alone say what a processor executes. Format:
Intel SDM volume 3, "Paging"; four or five levels, pages of 4 KiB, 2 MiB and 1 GiB.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from elivepatch.trial.outside.errors import NotSeen

PAGE = 4096
PAGE_2M = 2 << 20

FLAT_LIMIT_BYTES = 2 << 30
"""RAM that a q35 machine has at the addresses from 0 on, without a hole for devices."""

_REGISTERS = re.compile(r"CR0=([0-9a-f]{8,16}) CR2=[0-9a-f]{8,16} CR3=([0-9a-f]{8,16}) CR4=([0-9a-f]{8,16})")
_PAGING = 1 << 31
_LA57 = 1 << 12
_PRESENT, _LARGE = 1, 1 << 7
_FRAME = 0x000F_FFFF_FFFF_F000
_USER_TABLE = 0x1000  # with page table isolation, the table of a user program is the page after the kernel's
_READ_LIMIT_BYTES = 64 << 20
_TEXT_LIMIT_BYTES = 512


@dataclass(frozen=True, slots=True)
class Processor:
    """The registers of one processor that decide how it translates addresses."""

    cr3: int
    cr4: int

    @property
    def in_kernel(self) -> Processor:
        """The same processor with the kernel's page table, if this one has a program's (page table isolation)."""
        return Processor(self.cr3 & ~_USER_TABLE, self.cr4)


def processors(registers: str) -> tuple[Processor, ...]:
    """Return those in QEMU's `info registers -a` that the kernel has started. Raises NotSeen if there is none."""
    found = tuple(
        Processor(int(cr3, 16), int(cr4, 16))
        for cr0, cr3, cr4 in _REGISTERS.findall(registers)
        if int(cr0, 16) & _PAGING
    )
    if not found:
        raise NotSeen("QEMU shows no registers of the guest's processors")
    return found


@dataclass(slots=True)
class GuestMemory:
    """The guest's RAM behind `descriptor`, and its addresses as `processor` translates them.

    Every method raises NotSeen for an address that is not mapped, or not to RAM.
    """

    descriptor: int
    size_bytes: int
    processor: Processor
    _tables: dict[int, bytes] = field(default_factory=dict)

    def physical(self, address: int, size: int) -> bytes:
        """Return `size` bytes of the RAM. A page that the guest never wrote reads as zeros and stays unallocated."""
        if not 0 <= address <= address + size <= min(self.size_bytes, FLAT_LIMIT_BYTES) or size > _READ_LIMIT_BYTES:
            raise NotSeen(f"the guest's page tables lead to {address:#x}, which is not in its RAM")
        found = os.pread(self.descriptor, size, address)
        if len(found) != size:
            raise NotSeen("the guest's RAM is shorter than it was")
        return found

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes from the virtual `address` on."""
        if size > _READ_LIMIT_BYTES:
            raise NotSeen(f"a range of {size} bytes is longer than any of a kernel's")
        parts = []
        for start, length in self._extents(address, size):
            parts.append(self.physical(start, length))
        return b"".join(parts)

    def word(self, address: int) -> int:
        """Return the 8-byte unsigned number at `address`."""
        return int.from_bytes(self.read(address, 8), "little")

    def text(self, address: int) -> str:
        """Return the string at `address`, at most 512 bytes of it."""
        found = b""
        while len(found) < _TEXT_LIMIT_BYTES and b"\0" not in found:
            found += self.read(address + len(found), min(64, PAGE - (address + len(found)) % PAGE))
        return found.partition(b"\0")[0][:_TEXT_LIMIT_BYTES].decode(errors="replace")

    def mapped(self, address: int) -> bool:
        """Return whether a processor can read the page at `address`."""
        try:
            self._translate(address)
        except NotSeen:
            return False
        return True

    def extents(self, address: int, size: int) -> tuple[tuple[int, int], ...]:
        """Return the parts of the RAM behind a virtual range: physical address and length of each."""
        return tuple(self._extents(address, size))

    def _extents(self, address: int, size: int) -> Iterator[tuple[int, int]]:
        start, length, end = -1, 0, address + size
        while address < end:
            physical, room = self._translate(address)
            step = min(room, end - address)
            if start >= 0 and physical == start + length:
                length += step
            else:
                if start >= 0:
                    yield start, length
                start, length = physical, step
            address += step
        if start >= 0:
            yield start, length

    def _translate(self, address: int) -> tuple[int, int]:
        """Return the physical address behind a virtual one, and the bytes to the end of its page."""
        levels = 5 if self.processor.cr4 & _LA57 else 4
        bits = 12 + 9 * levels
        if address >> (bits - 1) not in {0, (1 << (64 - bits + 1)) - 1}:
            raise NotSeen(f"{address:#x} is not an address")
        table = self.processor.cr3 & _FRAME
        for level in range(levels, 0, -1):
            shift = 12 + 9 * (level - 1)
            entry = self._entry(table, address >> shift & 0x1FF)
            if not entry & _PRESENT:
                raise NotSeen(f"{address:#x} is not mapped in the guest")
            if level == 1 or (entry & _LARGE and level <= 3):
                size = 1 << shift
                return (entry & _FRAME & ~(size - 1)) | (address & (size - 1)), size - (address & (size - 1))
            table = entry & _FRAME
        raise AssertionError(levels)

    def _entry(self, table: int, number: int) -> int:
        if table not in self._tables:
            self._tables[table] = self.physical(table, PAGE)
        found: int = struct.unpack_from("<Q", self._tables[table], 8 * number)[0]
        return found
