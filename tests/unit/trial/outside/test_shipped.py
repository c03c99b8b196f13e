# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of the kernel says where the kernel patches itself."""

from __future__ import annotations

import struct
from pathlib import Path

import paper_kernel as paper
import pytest
from elf_maker import Made

from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.shipped import ShippedKernel, jump_labels, static_calls
from elivepatch.trial.outside.sites import Site, SiteKind


def test_the_addresses_in_the_tables_count_from_their_own_place() -> None:
    table = struct.pack("<iiq", -0x100, 0x20, 7) + struct.pack("<iiq", 0x40, -0x40, 7)
    assert list(jump_labels(table, 0x1000)) == [
        Site(0xF00, SiteKind.JUMP_LABEL, 0x1024), Site(0x1050, SiteKind.JUMP_LABEL, 0xFD4),
    ]  # fmt: skip
    assert list(static_calls(struct.pack("<iiii", -0x10, 1, 0x10, 1), 0x1000)) == [
        Site(0xFF0, SiteKind.STATIC_CALL), Site(0x1018, SiteKind.STATIC_CALL),
    ]  # fmt: skip


def test_the_places_are_those_of_functions_and_of_ftraces_own_code(tmp_path: Path) -> None:
    kernel = ShippedKernel.of(paper.vmlinux(tmp_path / "vmlinux"))
    kernel.prepare()
    assert [(site.address, site.kind) for site in kernel.sites.places] == [
        (paper.CALLER + paper.CALL, SiteKind.FTRACE_ENTRY), (paper.REGS + paper.CALL, SiteKind.FTRACE_ENTRY),
        (paper.VICTIM, SiteKind.FTRACE), (paper.OTHER, SiteKind.FTRACE),
    ]  # fmt: skip
    assert kernel.ranges["rodata"] == (paper.RODATA, paper.RODATA + paper.PAGE)
    assert kernel.structures["klp_func"].members["old_func"] == 24
    assert kernel.name_at(paper.VICTIM + 3) == "victim+0x3"


def test_a_kernel_without_a_symbol_that_is_needed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(Made().section(".text", b"\x90", code=True).data())
    with pytest.raises(NotSeen, match="has no symbol _stext"):
        ShippedKernel.of(path).prepare()


def test_a_symbol_of_two_things_has_no_address(tmp_path: Path) -> None:
    made = Made().section(".text", bytes(32), code=True)
    for value in (4, 8):
        made.symbol("twice", ".text", value=value)
    path = tmp_path / "vmlinux"
    path.write_bytes(made.data())
    kernel = ShippedKernel.of(path)
    assert kernel.find("twice") is None
    assert [one.value for one in kernel.named["twice"]] == [4, 8]
