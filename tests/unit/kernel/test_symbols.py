# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols of one source file in a linked kernel, and the position of one among several of its name."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from elf_maker import FUNC, GLOBAL, NOTYPE, OBJECT, Made

from elivepatch.kernel.elf import TYPE_FUNC, TYPE_OBJECT, ElfFile
from elivepatch.kernel.symbols import Block, LinkedSymbols, discarded_by_clang, stable_names
from elivepatch.kernel.traceable import TracedFunctions

TEXT = 0xFFFFFFFF81000000


def kernel() -> Made:
    """Two files called core.c, one of another name, and `helper` three times, not in the order of addresses."""
    made = Made(kind=2).section(".text", bytes(0x1000), code=True, address=TEXT)
    made.section(".init.text", bytes(0x100), code=True, address=TEXT + 0x2000)
    made.file("core.c")
    made.symbol("helper", ".text", value=TEXT + 0x300, size=16)
    made.symbol("first", ".text", value=TEXT + 0x310, size=16)
    made.symbol("__UNIQUE_ID_license1", ".text", kind=OBJECT)
    made.symbol("__trace_check_open.4", ".text", kind=OBJECT)
    made.file("core.c")
    made.symbol("helper", ".text", value=TEXT + 0x100, size=16)
    made.symbol("second", ".text", value=TEXT + 0x110, size=16)
    made.symbol("second_table", ".text", value=TEXT + 0x800, kind=OBJECT)
    made.file("other.c")
    made.symbol("helper", ".text", value=TEXT + 0x200, size=16)
    made.symbol("only", ".text", value=TEXT + 0x210, size=16)
    made.symbol("__pfx_only", ".text", value=TEXT + 0x20C, size=4)
    made.symbol("open_call", ".text", value=TEXT + 0x400, size=16, bind=GLOBAL)
    made.symbol("gone", 0, kind=NOTYPE, bind=GLOBAL)
    return made


def linked(tmp_path: Path, made: Made | None = None, *, is_vmlinux: bool = True) -> LinkedSymbols:
    return LinkedSymbols(ElfFile((made or kernel()).write(tmp_path / "linked")), is_vmlinux=is_vmlinux)


def test_blocks_of_equal_file_names_are_distinguished_by_their_symbols(tmp_path: Path) -> None:
    table = linked(tmp_path)
    assert [len(table.blocks[name]) for name in ("core.c", "other.c")] == [2, 1]
    wanted = frozenset({("helper", TYPE_FUNC), ("second", TYPE_FUNC), ("second_table", TYPE_OBJECT)})
    (block,) = table.block_of("core.c", wanted)
    assert [symbol.name for symbol in block.symbols] == ["helper", "second", "second_table"]
    assert table.symbols[block.position].name == "core.c"


def test_a_block_with_one_symbol_more_or_less_is_not_the_one(tmp_path: Path) -> None:
    table = linked(tmp_path)
    assert table.block_of("core.c", frozenset({("helper", TYPE_FUNC)})) == []
    assert table.block_of("nowhere.c", frozenset({("helper", TYPE_FUNC)})) == []


def test_names_that_linking_drops_or_adds_do_not_count(tmp_path: Path) -> None:
    table = linked(tmp_path)
    assert stable_names(table.blocks["core.c"][0].symbols) == {("helper", TYPE_FUNC), ("first", TYPE_FUNC)}
    assert stable_names(table.blocks["other.c"][0].symbols) == {("helper", TYPE_FUNC), ("only", TYPE_FUNC)}


def made_by_llvm(*, comment: bytes = b"Linker: Debian LLD 19.1.7\0Debian clang version 19.1.7 (3+b1)\0") -> Made:
    """A kernel whose assembler makes no FILE entries: the symbols of assembly follow those of init.c."""
    made = Made(kind=2).section(".text", bytes(0x1000), code=True, address=TEXT).section(".comment", comment)
    made.file("init.c")
    made.symbol("setup", ".text", value=TEXT + 0x10, size=16)
    made.symbol("__initcall__setup", ".text", kind=NOTYPE)
    made.symbol("set_permissions", ".text", value=TEXT + 0x20, size=16)
    made.symbol("__initcall__late", ".text", kind=NOTYPE)
    made.symbol("verify_cpu", ".text", value=TEXT + 0x30, size=16)
    made.symbol("last_entry", ".text", kind=NOTYPE)
    made.file("init.c")
    made.symbol("setup", ".text", value=TEXT + 0x40, size=16)
    return made


INIT = frozenset({("setup", TYPE_FUNC), ("set_permissions", TYPE_FUNC)})


def test_a_block_of_llvm_ends_before_the_symbols_of_assembly(tmp_path: Path) -> None:
    table = linked(tmp_path, made_by_llvm())
    (block,) = table.block_of("init.c", INIT)
    assert [symbol.name for symbol in block.symbols] == [
        "setup", "__initcall__setup", "set_permissions", "__initcall__late",
    ]  # fmt: skip
    assert table.symbols[block.end].name == "__initcall__late"


def test_a_whole_block_of_llvm_counts_before_a_part_of_another(tmp_path: Path) -> None:
    table = linked(tmp_path, made_by_llvm())
    (block,) = table.block_of("init.c", frozenset({("setup", TYPE_FUNC)}))
    assert block.symbols[0].value == TEXT + 0x40


@pytest.mark.parametrize("missing", ["later", "verify_cpu"])
def test_a_part_that_lacks_a_function_or_has_another_between_is_not_the_one(tmp_path: Path, missing: str) -> None:
    wanted = {("setup", TYPE_FUNC), (missing, TYPE_FUNC)}
    assert linked(tmp_path, made_by_llvm()).block_of("init.c", frozenset(wanted)) == []


def test_only_a_kernel_of_llvms_linker_has_parts_of_blocks(tmp_path: Path) -> None:
    made = made_by_llvm(comment=b"GCC: (Debian 12.2.0-14) 12.2.0\0")
    assert linked(tmp_path, made).block_of("init.c", INIT) == []


def test_variables_of_clangs_functions_that_linking_drops_are_named(tmp_path: Path) -> None:
    made = Made().section(".data", bytes(16))
    for name in ("read.__UNIQUE_ID___addressable_x561", "kept.__UNIQUE_ID_y2", "read.__key", "__UNIQUE_ID_z3"):
        made.symbol(name, ".data", kind=OBJECT, size=1)
    symbols = ElfFile(made.write(tmp_path / "object")).symbols
    assert stable_names(symbols) == {("read.__key", TYPE_OBJECT)}
    block = Block(0, "read.c", tuple(one for one in symbols if one.name.startswith("kept.")))
    assert discarded_by_clang(symbols, block) == ("read.__UNIQUE_ID___addressable_x561",)


def test_global_symbols_belong_to_no_block(tmp_path: Path) -> None:
    table = linked(tmp_path)
    assert not any(
        symbol.name == "open_call" for blocks in table.blocks.values() for b in blocks for symbol in b.symbols
    )


def test_the_kernel_counts_vmlinux_symbols_by_address(tmp_path: Path) -> None:
    table = linked(tmp_path)
    in_order_of_the_table = [symbol for symbol in table.symbols if symbol.name == "helper"]
    assert [table.position(symbol) for symbol in in_order_of_the_table] == [3, 1, 2]


def test_the_kernel_counts_module_symbols_by_their_table(tmp_path: Path) -> None:
    table = linked(tmp_path, is_vmlinux=False)
    in_order_of_the_table = [symbol for symbol in table.symbols if symbol.name == "helper"]
    assert [table.position(symbol) for symbol in in_order_of_the_table] == [1, 2, 3]


def test_a_unique_name_has_position_zero(tmp_path: Path) -> None:
    table = linked(tmp_path)
    assert table.position(table.named["open_call"][0]) == 0
    assert table.position(table.named["only"][0]) == 0


def test_undefined_symbols_and_file_names_are_not_what_kallsyms_lists(tmp_path: Path) -> None:
    assert not {"gone", "core.c"} & linked(tmp_path).named.keys()


def test_a_stripped_module_takes_its_blocks_from_the_debug_listing(tmp_path: Path) -> None:
    shipped = Made().section(".note", b"").section(".text", bytes(64), code=True)
    shipped.symbol("helper", ".text", size=16)
    listing = Made().section(".text", bytes(64), code=True)
    listing.file("module.c")
    listing.symbol("helper", ".text", size=16)
    files = [ElfFile(made.write(tmp_path / name)) for made, name in ((shipped, "m.ko"), (listing, "m.debug"))]
    table = LinkedSymbols(files[0], is_vmlinux=False, listing=files[1])
    (block,) = table.blocks["module.c"]
    assert block.symbols[0].section == shipped.number(".text") != listing.number(".text")
    assert table.position(block.symbols[0]) == 0


def sealed_kernel() -> Made:
    places = [TEXT + 0x400, TEXT + 0x110]
    start = TEXT + 0x3000
    relative = struct.pack("<2i", *(place - (start + 4 * number) for number, place in enumerate(places)))
    made = kernel().section(".init.seal", relative, address=start)
    made.symbol("__ibt_endbr_seal", ".init.seal", value=start, kind=NOTYPE, bind=GLOBAL)
    made.symbol("__ibt_endbr_seal_end", ".init.seal", value=start + 8, kind=NOTYPE, bind=GLOBAL)
    return made


def test_sealed_functions_of_vmlinux_are_those_that_its_list_points_to(tmp_path: Path) -> None:
    table = linked(tmp_path, sealed_kernel())
    assert table.sealed(1) == {TEXT + 0x400, TEXT + 0x110}
    assert linked(tmp_path).sealed(1) == frozenset()


def test_sealed_functions_of_a_module_are_those_that_its_relocations_name(tmp_path: Path) -> None:
    made = Made().section(".text", bytes(64), code=True).section(".ibt_endbr_seal", bytes(4))
    text = made.symbol("", ".text", kind=3)
    made.symbol("sealed", ".text", value=32, size=8)
    made.relocation(".ibt_endbr_seal", 0, text, addend=32)
    table = linked(tmp_path, made, is_vmlinux=False)
    assert table.sealed(made.number(".text")) == {32}
    assert table.sealed(made.number(".ibt_endbr_seal")) == frozenset()


def test_sealed_functions_of_a_stripped_module_are_those_of_its_own_numbers(tmp_path: Path) -> None:
    """The strip of another distribution may leave out more symbols, so that the others get other numbers."""

    def module(*before: str) -> tuple[Made, int]:
        made = Made().section(".text", bytes(64), code=True).section(".ibt_endbr_seal", bytes(4))
        for name in before:
            made.symbol(name, ".text", value=16, size=8)
        return made, made.symbol("sealed", ".text", value=32, size=8)

    (shipped, sealed), (debug, _) = module(), module("other", "another")
    shipped.relocation(".ibt_endbr_seal", 0, sealed)
    files = [ElfFile(made.write(tmp_path / name)) for made, name in ((shipped, "a.ko"), (debug, "a.ko.debug"))]
    table = LinkedSymbols(files[0], is_vmlinux=False, listing=files[1])
    assert table.sealed(shipped.number(".text")) == {32}


def test_functions_with_an_entry_call_can_be_traced_in_vmlinux(tmp_path: Path) -> None:
    start = TEXT + 0x4000
    # The second call stands behind an ENDBR.
    made = kernel().section(".mcount", struct.pack("<2Q", TEXT + 0x400, TEXT + 0x214), address=start)
    made.symbol("__start_mcount_loc", ".mcount", value=start, kind=NOTYPE, bind=GLOBAL)
    made.symbol("__stop_mcount_loc", ".mcount", value=start + 16, kind=NOTYPE, bind=GLOBAL)
    table = linked(tmp_path, made)
    traced = TracedFunctions(table)
    assert traced.contains(table.named["open_call"][0])
    assert traced.contains(table.named["only"][0])
    assert not traced.contains(table.named["first"][0])


def test_functions_with_an_entry_call_can_be_traced_in_a_module(tmp_path: Path) -> None:
    made = Made().section(".text", bytes(64), code=True).section("__mcount_loc", bytes(8))
    made.symbol("plain", ".text", value=32, size=8, kind=FUNC)
    text = made.symbol("", ".text", kind=3)
    made.symbol("traced", ".text", value=0, size=8, kind=FUNC)
    made.relocation("__mcount_loc", 0, text, kind=1, addend=4)
    table = linked(tmp_path, made, is_vmlinux=False)
    traced = TracedFunctions(table)
    assert traced.contains(table.named["traced"][0])
    assert not traced.contains(table.named["plain"][0])
