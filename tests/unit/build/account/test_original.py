# SPDX-License-Identifier: GPL-2.0-or-later
"""The copy of the original differs from the patched object where the account says so, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from compiled import SIZES, accounted, needs_gcc
from elf_maker import FUNC, NOTYPE, Made

from elivepatch.build.account.account import take_account
from elivepatch.build.account.original import write_original
from elivepatch.kernel.elf import ElfFile

TEXT = 'extern int say(const char *);\nint a(void) { return say("a"); }\nint b(void) { return say("b"); }\n'


@needs_gcc
def test_only_the_section_of_a_function_that_must_be_replaced_gets_another_size(tmp_path: Path) -> None:
    account = accounted(tmp_path, TEXT, TEXT.replace('"a"', '"c"'))
    before, copy = account.before.elf, ElfFile(write_original(account, tmp_path / "copy.o"))
    changed = {one.name: one.size - other.size for one, other in zip(before.sections, copy.sections, strict=True)
               if one != other}  # fmt: skip
    assert changed == {".text.a": 1}
    assert copy.symbols == before.symbols


@needs_gcc
def test_without_a_function_to_replace_the_copy_is_the_original(tmp_path: Path) -> None:
    account = accounted(tmp_path, TEXT, TEXT)
    assert write_original(account, tmp_path / "copy.o").read_bytes() == account.before.elf.path.read_bytes()


def numbered(place: Path, name: str, other: str) -> Path:
    """Write an object with a function that uses the constant `name`, which is not the first of its section."""
    made = Made().section(".text.f", b"\xe8\0\0\0\0\xc3", code=True).section(".rodata.k", b"\1\2\3\4\5\6\7\7")
    made.symbol("f", ".text.f", size=6, kind=FUNC)
    made.symbol(other, ".rodata.k", kind=NOTYPE)
    constant = made.symbol(name, ".rodata.k", value=4, kind=NOTYPE)
    return made.relocation(".text.f", 1, constant, kind=2, addend=-4).write(place)


def test_a_constant_with_a_new_number_gets_the_number_of_the_patched_object(tmp_path: Path) -> None:
    account = take_account(
        numbered(tmp_path / "before.o", ".LC26", ".LC0"), numbered(tmp_path / "after.o", ".LC27", ".LC0"), SIZES
    )
    assert account.empty
    copy = ElfFile(write_original(account, tmp_path / "copy.o"))
    assert [one.name for one in copy.symbols] == ["", "f", ".LC0", ".LC27"]
    assert [one[2:] for one in copy.symbols] == [one[2:] for one in account.before.elf.symbols]
