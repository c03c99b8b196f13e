# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbols of a module without its code: a function is found as in the whole module."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_maker import GLOBAL, OBJECT, SECTION, Made
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.debug.symbol_tables import symbols_alone
from elivepatch.kernel.elf import ElfFile, Symbol
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import EnvironmentFault


def module() -> Made:
    """Make a module of two sources, as the linker left it."""
    made = Made().section(".text", b"\xc3" * 5000, code=True).section(".rela.odd").section(".data", b"\1" * 900)
    made.section(".debug_info", b"\2" * 7000, flags=0).section(".bss", b"\0" * 64, kind="NOBITS")
    made.symbol("", ".text", kind=SECTION)
    made.symbol("", ".debug_info", kind=SECTION)
    for name, value in (("lamp.c", 0), ("core.c", 64)):
        made.file(name)
        made.symbol("show", ".text", value=value, size=32)
        made.symbol("state", ".data", value=value, size=8, kind=OBJECT)
    made.symbol("init_module", ".text", value=128, size=16, bind=GLOBAL)
    made.symbol("printk", 0, kind=0, bind=GLOBAL)
    return made


def files(made: Made, tmp_path: Path) -> tuple[ElfFile, ElfFile]:
    whole = ElfFile(made.write(tmp_path / "lamp.ko"))
    (tmp_path / "symbols").write_bytes(symbols_alone(whole))
    return whole, ElfFile(tmp_path / "symbols")


def places(elf: ElfFile) -> list[tuple[object, ...]]:
    """Return each symbol with the name of its section; those of sections that are not loaded have none."""

    def place(symbol: Symbol) -> object:
        if not symbol.defined:
            return symbol.section
        section = elf.sections[symbol.section]
        return section.name if section.loaded else 0

    return [(*symbol[:6], place(symbol)) for symbol in elf.symbols]


def test_every_symbol_is_there_with_the_name_of_its_section(tmp_path: Path) -> None:
    whole, alone = files(module(), tmp_path)
    assert places(alone) == places(whole)
    assert (tmp_path / "symbols").stat().st_size < 1500


def test_functions_are_found_as_with_the_whole_file(tmp_path: Path) -> None:
    """A shipped module lacks the entries of files, and has sections in another order."""
    _, alone = files(module(), tmp_path)
    shipped = Made().section(".data", b"\1" * 900).section(".text", b"\xc3" * 5000, code=True)
    shipped.symbol("show", ".text", value=0, size=32)
    shipped.symbol("show", ".text", value=64, size=32)
    linked = LinkedSymbols(ElfFile(shipped.write(tmp_path / "shipped.ko")), is_vmlinux=False, listing=alone)
    (block,) = linked.blocks["core.c"]
    show = next(symbol for symbol in block.symbols if symbol.name == "show")
    assert linked.elf.sections[show.section].name == ".text"
    assert linked.position(show) == 2


def test_a_file_without_symbols_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.ko"
    path.write_bytes(module().data().replace(b".symtab", b".symbol"))
    (tmp_path / "symbols").write_bytes(symbols_alone(ElfFile(path)))
    assert [symbol.name for symbol in ElfFile(tmp_path / "symbols").symbols] == [""]


def test_more_sections_than_a_module_has_are_refused(tmp_path: Path) -> None:
    made = module().section(".symtab_shndx", kind="SYMTAB_SHNDX")
    with pytest.raises(EnvironmentFault, match="symbol table"):
        symbols_alone(ElfFile(made.write(tmp_path / "a.ko")))


@given(data=st.data())
def test_a_damaged_module_is_refused_or_gives_a_file_that_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(module().data())
    start = whole.index(b"\0lamp.c\0")  # the tables are behind the content
    spots = st.tuples(st.integers(start - 300, len(whole) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(spots, max_size=8)):
        whole[place] = value
    directory = tmp_path_factory.mktemp("module")
    (directory / "a.ko").write_bytes(whole)
    try:
        (directory / "symbols").write_bytes(symbols_alone(ElfFile(directory / "a.ko")))
        code = "" if ElfFile(directory / "symbols").symbols else "empty"
    except EnvironmentFault as fault:
        code = fault.problem.code
    assert code in {"", "elf-malformed"}
