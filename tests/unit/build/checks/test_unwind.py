# SPDX-License-Identifier: GPL-2.0-or-later
"""A function without unwind entries, or with a return that the kernel does not find, is never handed out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from elf_maker import GLOBAL, NOTYPE, SECTION, Made

from elivepatch.build.checks.unwind import check_tables, check_unwind
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import BuildStopped

RETURNS_AT = 10


def kernel(tmp_path: Path, *, lists_returns: bool) -> ElfFile:
    made = Made(kind=2).section(".text", bytes(16), code=True)
    if lists_returns:
        made.section(".return_sites", bytes(4))
    return ElfFile(made.write(tmp_path / "vmlinux"))


def module(tmp_path: Path, *, entries: Sequence[int], sites: Sequence[int] = ()) -> ElfFile:
    """Functions at 0 and 16 of one section and at 0 of another; `entries` and `sites` are offsets in the first one."""
    made = Made().section(".text.one", bytes(32), code=True).section(".text.two", bytes(16), code=True)
    made.section(".orc_unwind_ip", bytes(16)).section(".return_sites", bytes(8))
    one = made.symbol("", ".text.one", kind=SECTION)
    two = made.symbol("", ".text.two", kind=SECTION)
    made.symbol("first", ".text.one", size=16)
    made.symbol("second", ".text.one", value=16, size=16)
    made.symbol("third", ".text.two", size=16)
    thunk = made.symbol("__x86_return_thunk", kind=NOTYPE, bind=GLOBAL)
    made.relocation(".text.one", RETURNS_AT + 1, thunk, kind=4, addend=-4)
    for number, offset in enumerate(entries):
        made.relocation(".orc_unwind_ip", 4 * number, one, addend=offset)
    made.relocation(".orc_unwind_ip", 12, two, addend=0)
    for number, offset in enumerate(sites):
        made.relocation(".return_sites", 4 * number, one, addend=offset)
    return ElfFile(made.write(tmp_path / "livepatch.ko"))


def refusal(tmp_path: Path, found: ElfFile, *, lists_returns: bool) -> str:
    with pytest.raises(BuildStopped) as caught:
        check_unwind(found, kernel(tmp_path, lists_returns=lists_returns))
    assert caught.value.problem.code == "module-check"
    return caught.value.problem.message


def test_a_whole_module_is_good(tmp_path: Path) -> None:
    check_unwind(module(tmp_path, entries=[0, 16], sites=[RETURNS_AT]), kernel(tmp_path, lists_returns=True))


def test_an_entry_holds_for_what_follows_in_its_section(tmp_path: Path) -> None:
    check_unwind(module(tmp_path, entries=[0]), kernel(tmp_path, lists_returns=False))


@pytest.mark.parametrize(("entries", "name"), [([], "first"), ([16], "first"), ([4, 16], "first")])
def test_a_function_without_an_entry_is_refused(tmp_path: Path, entries: list[int], name: str) -> None:
    found = module(tmp_path, entries=entries, sites=[RETURNS_AT])
    assert f"{name} has no unwind entries" in refusal(tmp_path, found, lists_returns=True)


@pytest.mark.parametrize("sites", [[], [RETURNS_AT + 1], [0]])
def test_a_return_that_is_not_listed_is_refused(tmp_path: Path, sites: list[int]) -> None:
    found = module(tmp_path, entries=[0, 16], sites=sites)
    assert "A return in .text.one" in refusal(tmp_path, found, lists_returns=True)


def test_a_kernel_without_a_list_of_returns_needs_none(tmp_path: Path) -> None:
    check_unwind(module(tmp_path, entries=[0, 16]), kernel(tmp_path, lists_returns=False))


def with_tables(path: Path, **sizes: int) -> ElfFile:
    made = Made().section(".text", bytes(16), code=True)
    for name, size in sizes.items():
        made.section(name if name.startswith("__") else f".{name}", bytes(size))
    return ElfFile(made.write(path))


@pytest.mark.parametrize("table", ["altinstructions", "__ex_table", "__jump_table", "smp_locks", "static_call_sites"])
@pytest.mark.parametrize("size", [0, 24, 47])
def test_a_module_without_entries_that_its_objects_have_is_refused(tmp_path: Path, table: str, size: int) -> None:
    objects = [with_tables(tmp_path / name, **{table: 24}) for name in ("a.o", "b.o")]
    found = with_tables(tmp_path / "m.ko", **({table: size} if size else {}))
    with pytest.raises(BuildStopped) as caught:
        check_tables(found, objects)
    assert caught.value.problem.code == "module-check"
    assert table in caught.value.problem.message


def test_a_module_has_the_entries_of_its_objects_and_its_own(tmp_path: Path) -> None:
    objects = [with_tables(tmp_path / name, altinstructions=24, __ex_table=12) for name in ("a.o", "b.o")]
    check_tables(with_tables(tmp_path / "m.ko", altinstructions=60, __ex_table=24), objects)
