# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses of a guest are translated by its own page tables, which may hold anything."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.memory import PAGE, PAGE_2M, GuestMemory, Processor, processors

KERNEL = 0xFFFFFFFF81000000
SIZE = 8 << 20
LA57 = 1 << 12
PRESENT, LARGE = 1, 1 << 7


@dataclass
class Ram:
    """A RAM with page tables from 64 KiB on."""

    descriptor: int
    next: int = 0x10000

    def table(self) -> int:
        self.next += PAGE
        return self.next

    def put(self, address: int, content: bytes) -> None:
        os.pwrite(self.descriptor, content, address)

    def map(self, root: int, address: int, physical: int, *, levels: int, large: bool = False) -> None:
        table = root
        for level in range(levels, 1, -1):
            place = table + 8 * (address >> (12 + 9 * (level - 1)) & 0x1FF)
            if level == 2 and large:
                self.put(place, struct.pack("<Q", physical | PRESENT | LARGE))
                return
            (entry,) = struct.unpack("<Q", os.pread(self.descriptor, 8, place))
            if not entry & PRESENT:
                entry = self.table() | PRESENT
                self.put(place, struct.pack("<Q", entry))
            table = entry & ~0xFFF
        self.put(table + 8 * (address >> 12 & 0x1FF), struct.pack("<Q", physical | PRESENT))


@pytest.fixture
def ram() -> Iterator[Ram]:
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, SIZE)
    yield Ram(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("levels", [4, 5])
def test_a_range_may_be_spread_over_pages_of_both_sizes(ram: Ram, levels: int) -> None:
    root = ram.table()
    ram.map(root, KERNEL, 2 * PAGE_2M, levels=levels, large=True)
    ram.map(root, KERNEL + PAGE_2M, 0x300000, levels=levels)
    ram.map(root, KERNEL + PAGE_2M + PAGE, 0x301000, levels=levels)
    ram.put(3 * PAGE_2M - 4, b"here")
    ram.put(0x300000, b" and there" + bytes(PAGE - 10) + b"!")
    memory = GuestMemory(ram.descriptor, SIZE, Processor(root, LA57 if levels == 5 else 0))
    assert memory.read(KERNEL + PAGE_2M - 4, 14) == b"here and there"
    assert memory.text(KERNEL + PAGE_2M - 4) == "here and there"
    assert memory.extents(KERNEL, PAGE_2M + 2 * PAGE) == ((2 * PAGE_2M, PAGE_2M), (0x300000, 2 * PAGE))
    assert memory.mapped(KERNEL)
    assert not memory.mapped(KERNEL + PAGE_2M + 2 * PAGE)
    with pytest.raises(NotSeen, match="not mapped"):
        memory.read(KERNEL + PAGE_2M, 3 * PAGE)


def test_the_kernels_table_is_used_while_a_program_runs(ram: Ram) -> None:
    """With page table isolation, CR3 has the table of the program, which is the page after the kernel's."""
    ram.map(0x20000, KERNEL, 2 * PAGE_2M, levels=4, large=True)
    program = Processor(0x21000 | 0x801, 0)
    assert not GuestMemory(ram.descriptor, SIZE, program).mapped(KERNEL)
    assert GuestMemory(ram.descriptor, SIZE, program.in_kernel).mapped(KERNEL)


def test_tables_that_lead_out_of_the_ram_are_told(ram: Ram) -> None:
    root = ram.table()
    ram.map(root, KERNEL, 1 << 40, levels=4, large=True)
    memory = GuestMemory(ram.descriptor, SIZE, Processor(root, 0))
    with pytest.raises(NotSeen, match="not in its RAM"):
        memory.read(KERNEL, 8)
    with pytest.raises(NotSeen, match="not in its RAM"):
        GuestMemory(ram.descriptor, SIZE, Processor(1 << 45, 0)).read(KERNEL, 8)
    with pytest.raises(NotSeen, match="is not an address"):
        memory.read(1 << 50, 8)


def test_no_read_is_longer_than_a_kernel(ram: Ram) -> None:
    with pytest.raises(NotSeen):
        GuestMemory(ram.descriptor, SIZE, Processor(0, 0)).read(KERNEL, 1 << 40)


@given(st.binary(min_size=64, max_size=64), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 52) - 1), st.booleans())
def test_any_tables_are_followed_or_refused(entries: bytes, address: int, root: int, wide: bool) -> None:
    descriptor = os.memfd_create("ram")
    try:
        os.ftruncate(descriptor, 1 << 20)
        for table in range(0, 1 << 20, 1 << 16):
            os.pwrite(descriptor, entries * 64, table)
        memory = GuestMemory(descriptor, 1 << 20, Processor(root & 0xFF000, LA57 if wide else 0))
        assert len(memory.read(address, 16)) == 16
    except NotSeen:
        pass
    finally:
        os.close(descriptor)


def test_the_registers_of_each_processor_are_read() -> None:
    line = "RAX=0000\nCR0={} CR2=00000031 CR3={} CR4={}\n"
    shown = line.format("80050033", "022a6000", "00751eb0") + line.format("80050033", "0000000003000000", "00750eb0")
    assert processors(shown) == (Processor(0x22A6000, 0x751EB0), Processor(0x3000000, 0x750EB0))
    idle = line.format("60000010", "00000000", "00000000")
    assert processors(shown + idle) == processors(shown), "a kernel for one processor does not start the other"
    for text in ("unknown command", idle):
        with pytest.raises(NotSeen, match="no registers"):
            processors(text)
