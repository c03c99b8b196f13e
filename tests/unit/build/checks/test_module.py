# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions of one name in several files: the kernel and we distinguish them by symbol position."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_maker import Made

from elivepatch.build.checks.functions import Replaced
from elivepatch.build.checks.module import Expected, check_sizes, find_place
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import BuildStopped

TEXT = 0xFFFFFFFF81000000


@pytest.fixture
def kernel(tmp_path: Path) -> LinkedSymbols:
    """`start` in three files, not in the order of addresses, and `only` in one."""
    made = Made(kind=2).section(".text", bytes(0x1000), code=True, address=TEXT)
    for file, at in (("a.c", 0x300), ("b.c", 0x100), ("c.c", 0x200)):
        made.file(file)
        made.symbol("start", ".text", value=TEXT + at, size=16)
    made.symbol("only", ".text", value=TEXT + 0x400, size=16)
    return LinkedSymbols(ElfFile(made.write(tmp_path / "vmlinux")), is_vmlinux=True)


def expected(kernel: LinkedSymbols, *sources: str, name: str = "start") -> list[Expected]:
    return [
        Expected("vmlinux", source, next(one for one in kernel.blocks[source][0].symbols if one.name == name))
        for source in sources
    ]


def wrong(kernel: LinkedSymbols, replaced: Replaced, places: list[Expected]) -> str:
    with pytest.raises(BuildStopped) as caught:
        find_place(replaced, places, lambda _: kernel)
    assert caught.value.problem.code == "module-check"
    return caught.value.problem.message


def test_two_functions_of_one_name_are_told_apart_by_their_position(kernel: LinkedSymbols) -> None:
    places = expected(kernel, "a.c", "b.c")
    for source, position in (("a.c", 3), ("b.c", 1)):
        place, found = find_place(Replaced("vmlinux", "start", position), places, lambda _: kernel)
        assert (place.source, found) == (source, position)


def test_a_position_that_none_of_them_has_is_refused(kernel: LinkedSymbols) -> None:
    places = expected(kernel, "a.c", "b.c")
    for position in (0, 2, 9):
        message = wrong(kernel, Replaced("vmlinux", "start", position), places)
        assert f"start is at symbol position 1 or 3, the module says {position}" in message


def test_the_only_one_of_its_name_is_at_0_or_at_1(kernel: LinkedSymbols) -> None:
    places = expected(kernel, "c.c", name="only")
    for position in (0, 1):
        assert find_place(Replaced("vmlinux", "only", position), places, lambda _: kernel) == (places[0], 0)
    assert "position 0, the module says 2" in wrong(kernel, Replaced("vmlinux", "only", 2), places)


def test_what_nobody_asked_for_is_refused(kernel: LinkedSymbols) -> None:
    places = expected(kernel, "a.c")
    assert "the series does not change" in wrong(kernel, Replaced("vmlinux", "only", 0), places)
    assert "the series does not change" in wrong(kernel, Replaced("lamp", "start", 3), places)


def test_the_symbols_of_an_object_that_nobody_asked_for_are_not_looked_for(kernel: LinkedSymbols) -> None:
    def parent(name: str) -> LinkedSymbols:
        raise AssertionError(name)

    with pytest.raises(BuildStopped):
        find_place(Replaced("../../lamp", "start", 3), expected(kernel, "a.c"), parent)


@pytest.mark.parametrize(("name", "size"), [(".bss.big", 1 << 33), (".data.big", 1 << 26), (".bss", (1 << 32) - 4096)])
def test_a_module_whose_sections_the_kernel_cannot_add_up_is_refused(tmp_path: Path, name: str, size: int) -> None:
    made = Made().section(".text", b"code", code=True).section(name, kind="NOBITS")
    made.sections[-1] = (*made.sections[-1][:-1], size)
    with pytest.raises(BuildStopped) as caught:
        check_sizes(ElfFile(made.write(tmp_path / "big.ko")))
    assert caught.value.problem.code == "module-too-large"
    assert f"{size >> 20} MiB of it for {name}" in caught.value.problem.message


def test_many_sections_are_too_large_together(tmp_path: Path) -> None:
    made = Made()
    for number in range(70):
        made.section(f".bss.{number}", kind="NOBITS")
        made.sections[-1] = (*made.sections[-1][:-1], 1 << 20)
    with pytest.raises(BuildStopped):
        check_sizes(ElfFile(made.write(tmp_path / "big.ko")))


def test_what_is_not_loaded_may_have_any_size(tmp_path: Path) -> None:
    made = Made().section(".debug_info", kind="NOBITS")
    name, kind, _, address, content, _ = made.sections[-1]
    made.sections[-1] = (name, kind, 0, address, content, 1 << 33)
    check_sizes(ElfFile(made.write(tmp_path / "small.ko")))
