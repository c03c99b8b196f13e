# SPDX-License-Identifier: GPL-2.0-or-later
"""New code may refer only to what is still there when it runs: no freed memory, no module that may be unloaded."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from elf_maker import FUNC, GLOBAL, LOCAL, OBJECT, SECTION, Made

from elivepatch.build.checks.lifetime import (
    Reference,
    check_lifetimes,
    check_own,
    check_plain,
    distance_of,
    holds_code_or_data,
)
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.exports import Export
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import BuildStopped, Problem

PC32, PLT32, SIGNED_32 = 2, 4, 11
TEXT, INIT, PER_CPU, AFTER = 0x1000, 0x4000, 0x5000, 0x9000


def vmlinux(directory: Path, code: bytes = bytes(64)) -> LinkedSymbols:
    """A kernel with code, start-up code and data between the linker script's bounds, and per-cpu data between them."""
    made = Made(kind=2)
    made.section(".text", code, code=True, address=TEXT)
    made.section(".init.text", bytes(64), code=True, address=INIT)
    made.section(".init.data", bytes(64), address=INIT + 0x100)
    made.section(".data..percpu", bytes(64), address=PER_CPU)
    made.section(".odd_table", bytes(64), address=PER_CPU + 0x100)
    made.section(".data", bytes(64), address=AFTER)
    made.symbol("twice", ".init.data", value=INIT + 0x120, size=4, kind=OBJECT)
    made.symbol("twice", ".data", value=AFTER + 8, size=4, kind=OBJECT)
    for name, section, value, kind in (
        ("run", ".text", TEXT, FUNC), ("start", ".init.text", INIT, FUNC), ("line", ".init.data", INIT + 0x100, OBJECT),
        ("each", ".data..percpu", PER_CPU, OBJECT), ("odd", ".odd_table", PER_CPU + 0x100, OBJECT),
        ("kept", ".data", AFTER, OBJECT), ("__init_begin", ".init.text", INIT, 0),
        ("_sinittext", ".init.text", INIT, 0), ("__init_end", ".data", AFTER, 0),
    ):  # fmt: skip
        made.symbol(name, section, value=value, size=32 if kind else 0, kind=kind, bind=GLOBAL)
    return LinkedSymbols(ElfFile(made.write(directory / "vmlinux")), is_vmlinux=True)


def module(directory: Path, name: str, *, depends: str = "") -> LinkedSymbols:
    made = Made().section(".text", bytes(64), code=True).section(".init.text", bytes(64), code=True)
    made.section(".exit.text", bytes(64), code=True).section(".modinfo", f"depends={depends}".encode() + b"\0")
    made.symbol("", ".init.text", kind=SECTION)
    for symbol, section in (("work", ".text"), ("begin", ".init.text"), ("end", ".exit.text")):
        made.symbol(symbol, section, size=32, kind=FUNC, bind=LOCAL)
    made.relocation(".text", 5, 1, kind=PLT32, addend=-4)
    return LinkedSymbols(ElfFile(made.write(directory / f"{name}.ko")), is_vmlinux=False)


@pytest.fixture
def base(tmp_path: Path) -> Any:
    parents = {"vmlinux": vmlinux(tmp_path), "a": module(tmp_path, "a", depends="b-b"), "d": module(tmp_path, "d")}
    parents |= {"b_b": module(tmp_path, "b_b", depends="c"), "c": module(tmp_path, "c")}
    return SimpleNamespace(parent=parents.__getitem__, module_files=dict.fromkeys(parents), exports={})


def reference(name: str, **changes: Any) -> Reference:
    given: dict[str, Any] = {
        "holder": "run",
        "part": "vmlinux",
        "object": "vmlinux",
        "name": name,
        "position": 0,
        "distance": 0,
    }
    return Reference(**(given | changes))


def stopped(one: Reference, base: Any) -> Problem:
    with pytest.raises(BuildStopped) as caught:
        check_lifetimes([one], base)
    return caught.value.problem


@pytest.mark.parametrize(("name", "section"), [("start", ".init.text"), ("line", ".init.data"), ("odd", ".odd_table")])
def test_what_the_kernel_frees_after_its_start_is_refused_with_function_symbol_and_section(
    base: Any, name: str, section: str
) -> None:
    found = stopped(reference(name), base)
    assert found.code == "freed-memory"
    assert f"run uses {name} of {section}, which is freed after the kernel has started" in found.message


@pytest.mark.parametrize("name", ["kept", "each", "__init_end", "_sinittext", "unknown"])
def test_what_stays_the_copies_of_processors_and_the_bounds_of_freed_memory_may_be_used(base: Any, name: str) -> None:
    check_lifetimes([reference(name)], base)


def test_of_several_symbols_of_a_name_the_meant_one_decides(base: Any) -> None:
    check_lifetimes([reference("twice", position=2)], base)
    assert stopped(reference("twice", position=1), base).code == "freed-memory"


def test_a_place_behind_a_symbol_counts_too(base: Any) -> None:
    assert stopped(reference("kept", distance=INIT - AFTER), base).code == "freed-memory"


@pytest.mark.parametrize("code", [
    struct.pack("<Bi", 0xE8, INIT - (TEXT + 5)),             # call start
    b"\x90" + struct.pack("<3si", b"\x48\xc7\xc7", INIT),    # mov $start, %rdi
    struct.pack("<2siB", b"\x80\x3d", INIT - (TEXT + 7), 0),  # cmpb $0, start(%rip)
])  # fmt: skip
def test_a_function_that_refers_to_it_in_the_shipped_kernel_may_go_on(base: Any, tmp_path: Path, code: bytes) -> None:
    parents = {"vmlinux": vmlinux(tmp_path, code.ljust(64, b"\x90"))}
    base.parent = parents.__getitem__
    check_lifetimes([reference("start", holder="run.cold")], base)
    assert stopped(reference("start", holder="other"), base).code == "freed-memory"
    assert stopped(reference("line"), base).code == "freed-memory"


def test_start_up_code_of_a_module_is_refused_and_its_exit_code_stays_with_it(base: Any) -> None:
    found = stopped(reference("begin", part="a", object="a"), base)
    assert "begin of .init.text, which is freed after the module a has started" in found.message
    check_lifetimes([reference("end", part="a", object="a")], base)


def test_a_modules_function_that_refers_to_its_start_up_code_already_may_go_on(base: Any) -> None:
    check_lifetimes([reference("begin", part="a", object="a", holder="work")], base)


def test_the_kernels_code_may_not_use_a_modules_symbol(base: Any) -> None:
    found = stopped(reference("work", object="a"), base)
    assert found.code == "module-symbol"
    assert "run is the kernel's own code and uses work of the module a" in found.message


@pytest.mark.parametrize("other", ["a", "b_b", "c", "vmlinux"])
def test_a_module_may_use_what_it_depends_on_at_any_depth(base: Any, other: str) -> None:
    check_lifetimes([reference("kept" if other == "vmlinux" else "work", part="a", object=other)], base)


def test_a_module_may_not_use_one_that_it_does_not_depend_on(base: Any) -> None:
    found = stopped(reference("work", part="a", object="d"), base)
    assert found.code == "module-symbol"
    assert "of the module d, which a does not depend on" in found.message


def test_new_code_does_not_go_on_in_the_unlikely_part_of_an_old_function(base: Any) -> None:
    found = stopped(reference("run.cold"), base)
    assert found.code == "module-check"
    assert "run jumps to run.cold of vmlinux, which goes on in the old code" in found.message


def test_a_livepatch_does_not_need_a_module_to_be_loaded() -> None:
    check_plain("printk", Export(name="printk", crc=1, owner="vmlinux", namespace=""))
    with pytest.raises(BuildStopped) as caught:
        check_plain("ask", Export(name="ask", crc=1, owner="drivers/of-one", namespace=""))
    assert caught.value.problem.code == "module-symbol"
    assert "ask of the module of_one" in caught.value.problem.message


@pytest.mark.parametrize(("section", "named"), [(".init.text", True), (".init.rodata", False), (".init.data", True)])
def test_start_up_code_and_data_of_the_livepatch_itself_is_refused(
    tmp_path: Path, section: str, *, named: bool
) -> None:
    made = Made().section(".text.run", bytes(64), code=True).section(section, bytes(64))
    made.symbol("run", ".text.run", size=64, kind=FUNC, bind=GLOBAL)
    of_section = made.symbol("", section, kind=SECTION)
    helper = made.symbol("helper", section, value=8, size=8, kind=OBJECT)
    made.relocation(".text.run", 5, helper if named else of_section, kind=SIGNED_32, addend=0 if named else 8)
    with pytest.raises(BuildStopped) as caught:
        check_own(ElfFile(made.write(tmp_path / "a.o")))
    assert caught.value.problem.code == "freed-memory"
    assert f"run uses helper of {section}, which is freed after the livepatch is loaded" in caught.value.problem.message


def test_start_up_code_that_only_start_up_code_uses_may_be_there(tmp_path: Path) -> None:
    made = Made().section(".init.text", bytes(64), code=True).section(".orc_unwind_ip", bytes(8))
    made.section(".text.run", bytes(64), code=True)
    start = made.symbol("start", ".init.text", size=64, kind=FUNC)
    made.relocation(".init.text", 5, start, kind=PC32).relocation(".orc_unwind_ip", 0, start, kind=PC32)
    check_own(ElfFile(made.write(tmp_path / "a.o")))


@pytest.mark.parametrize(("holder", "stays"), [(".text.start", True), (".text.unlikely", False), (".init.text", False)])
def test_the_table_of_a_start_up_functions_switch_counts_only_if_the_new_code_uses_it(
    tmp_path: Path, holder: str, stays: bool
) -> None:
    """create-diff-object takes all of .rodata along, in which gcc puts the tables of functions without own section."""
    made = Made().section(".rodata", bytes(64)).section(holder, bytes(64), code=True)
    made.relocation(holder, 5, made.symbol("", ".rodata", kind=SECTION), kind=SIGNED_32)
    elf = ElfFile(made.write(tmp_path / "diff.o"))
    assert holds_code_or_data(elf, elf.by_name[".rodata"]) is stays


def test_a_relative_field_counts_from_its_end() -> None:
    assert [distance_of(PC32, -4), distance_of(PLT32, 4), distance_of(SIGNED_32, 8), distance_of(PC32, -5)] == [
        0,
        8,
        8,
        0,
    ]
