# SPDX-License-Identifier: GPL-2.0-or-later
"""The rebuilt function must be the one that the kernel holds, byte for byte except for addresses."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_maker import FUNC, GLOBAL, OBJECT, WEAK, Made

from elivepatch.build.checks.fidelity import Located, check_fidelity, locate
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import BuildStopped, Problem

CODE = bytes(range(1, 17))
TEXT = 0xFFFFFFFF81000000


def rebuilt(tmp_path: Path, *, code: bytes = CODE, extra: bool = False, bind: int = 0, local: bool = True) -> ElfFile:
    """An object with one function that calls another at offset 4."""
    made = Made().section(".text", code + b"\xcc" * 16, code=True)
    if local:
        made.symbol("helper", ".text", value=16, size=16, kind=FUNC)
    if extra:
        made.symbol("table", ".text", kind=OBJECT)
    callee = made.symbol("printk", 0, kind=0, bind=GLOBAL)
    made.symbol("run", ".text", size=len(code), kind=FUNC, bind=bind)
    made.relocation(".text", 4, callee, kind=4)
    return ElfFile(made.write(tmp_path / "plain.o"))


def shipped(tmp_path: Path, *, blocks: int = 1, code: bytes = CODE, bind: int = 0, local: bool = True) -> LinkedSymbols:
    """A kernel with `blocks` objects of demo.c, one behind the other, the call filled in."""
    filled = code[:4] + b"\xaa\xbb\xcc\xdd" + code[8:]
    made = Made(kind=2).section(".text", (filled + b"\xcc" * 16) * blocks, code=True, address=TEXT)
    for number in range(blocks):
        made.file("demo.c")
        start = TEXT + number * (len(code) + 16)
        if local:
            made.symbol("helper", ".text", value=start + len(code), size=16)
        if not bind:
            made.symbol("run", ".text", value=start, size=len(code))
    if bind:
        made.symbol("run", ".text", value=TEXT, size=len(code), bind=bind)
    return LinkedSymbols(ElfFile(made.write(tmp_path / "vmlinux")), is_vmlinux=True)


def found(plain: ElfFile, linked: LinkedSymbols) -> Located:
    return locate(plain, linked, source="drivers/demo.c", parent="vmlinux")


def check(plain: ElfFile, linked: LinkedSymbols, *names: str) -> None:
    check_fidelity(plain, linked, found(plain, linked), names, source="drivers/demo.c", parent="vmlinux")


def refusal(plain: ElfFile, linked: LinkedSymbols, *names: str) -> Problem:
    with pytest.raises(BuildStopped) as caught:
        check(plain, linked, *names)
    assert "demo.c" in caught.value.problem.message
    return caught.value.problem


def test_the_same_code_with_addresses_filled_in_is_the_same(tmp_path: Path) -> None:
    check(rebuilt(tmp_path), shipped(tmp_path), "run", "helper")


@pytest.mark.parametrize("place", [0, 3, 8, 15])
def test_a_byte_that_differs_is_noticed(tmp_path: Path, place: int) -> None:
    code = bytearray(CODE)
    code[place] ^= 1
    assert refusal(rebuilt(tmp_path, code=bytes(code)), shipped(tmp_path), "run").code == "fidelity"


def test_another_length_is_noticed(tmp_path: Path) -> None:
    assert refusal(rebuilt(tmp_path), shipped(tmp_path, code=CODE + b"\x90"), "run").code == "fidelity"


def test_a_function_that_the_kernel_does_not_have_is_noticed(tmp_path: Path) -> None:
    problem = refusal(rebuilt(tmp_path), shipped(tmp_path), "new_function")
    assert problem.code == "fidelity"
    assert "new_function" in problem.message


def test_an_object_with_other_local_symbols_is_not_the_one(tmp_path: Path) -> None:
    assert refusal(rebuilt(tmp_path, extra=True), shipped(tmp_path), "run").code == "symbols"


def test_one_of_several_objects_of_the_same_name_is_told_by_its_code(tmp_path: Path) -> None:
    linked = shipped(tmp_path, blocks=2)
    raw = bytearray((tmp_path / "vmlinux").read_bytes())
    at = raw.find(CODE[:4])
    raw[at] ^= 1
    (tmp_path / "vmlinux").write_bytes(bytes(raw))
    linked = LinkedSymbols(ElfFile(tmp_path / "vmlinux"), is_vmlinux=True)
    assert found(rebuilt(tmp_path), linked).functions["run"].value == TEXT + 32


def test_several_objects_with_the_same_code_cannot_be_told_apart(tmp_path: Path) -> None:
    assert refusal(rebuilt(tmp_path), shipped(tmp_path, blocks=2), "run").code == "duplicate-symbol"


def test_objects_without_local_symbols_need_not_be_told_apart(tmp_path: Path) -> None:
    check(rebuilt(tmp_path, bind=GLOBAL, local=False), shipped(tmp_path, blocks=2, bind=GLOBAL, local=False), "run")


def test_a_weak_function_that_another_overrides_is_told(tmp_path: Path) -> None:
    problem = refusal(rebuilt(tmp_path, bind=WEAK), shipped(tmp_path, bind=GLOBAL), "run")
    assert problem.code == "weak-overridden"
    assert "run" in problem.message


def test_a_weak_function_that_nobody_overrides_is_the_one(tmp_path: Path) -> None:
    check(rebuilt(tmp_path, bind=WEAK), shipped(tmp_path, bind=WEAK), "run")
