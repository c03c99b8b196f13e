# SPDX-License-Identifier: GPL-2.0-or-later
"""An object made by a stranger's source is taken apart within bounds."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from compiled import SIZES
from elf_maker import FUNC, NOTYPE, OBJECT, Made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elivepatch.build.account.account import take_account
from elivepatch.build.account.image import NAMELESS, Image
from elivepatch.build.account.original import write_original
from elivepatch.build.account.settlement import Carried, settle
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import BuildStopped, EnvironmentFault


def made() -> Made:
    """Return an object with functions, data that refer to each other in a circle, and a table."""
    one = Made().section(".text.f", bytes(32), code=True).section(".text.unlikely.f", bytes(16), code=True)
    one.section(".rodata.CSWTCH.1", bytes(16)).section(".rodata._entry.2", bytes(16)).section(".data.x.3", bytes(8))
    one.section("__bug_table", bytes(24)).section(".rodata", bytes(32))
    f, cold = one.symbol("f", ".text.f", size=32), one.symbol("f.cold", ".text.unlikely.f", size=16)
    table = one.symbol("CSWTCH.1", ".rodata.CSWTCH.1", size=16, kind=OBJECT)
    entry = one.symbol("_entry.2", ".rodata._entry.2", size=16, kind=OBJECT)
    static = one.symbol("x.3", ".data.x.3", size=8, kind=OBJECT)
    unnamed = one.symbol(".LC4", ".rodata", value=8, kind=NOTYPE)
    for offset, symbol in ((1, cold), (8, table), (16, static), (24, unnamed)):
        one.relocation(".text.f", offset, symbol, addend=-4)
    one.relocation(".text.unlikely.f", 4, f, addend=12).relocation(".rodata", 8, f, kind=1, addend=8)
    one.relocation(".rodata.CSWTCH.1", 0, entry, kind=1).relocation(".rodata._entry.2", 8, table, kind=1)
    return one.relocation("__bug_table", 0, f, addend=3).relocation("__bug_table", 12, 0)


def test_each_thing_has_its_place(tmp_path: Path) -> None:
    image = Image(ElfFile(made().write(tmp_path / "object.o")), SIZES)
    assert {key[0] for _, key in image.pieces} == {"f", "f.cold", "CSWTCH", "_entry", "x"}
    assert [(table, place) for table, place, _ in image.entries["f", 0]] == [("__bug_table", 3)]
    assert [table for table, _, _ in image.entries[NAMELESS]] == ["__bug_table"]
    assert image.users[False, ("CSWTCH", 0)] == {(True, ("f", 0)), (False, ("_entry", 0))}
    assert image.chunk_end(7, 8) == 32
    assert image.chunk_end(7, 0) == 8


def test_data_that_refer_to_each_other_end(tmp_path: Path) -> None:
    one, other = made().write(tmp_path / "one.o"), made().write(tmp_path / "other.o")
    assert take_account(one, other, SIZES).empty


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12))
def test_no_damage_ends_in_anything_but_an_answer(tmp_path: Path, damage: list[tuple[float, int]]) -> None:
    whole = made().data()
    content = bytearray(whole)
    for place, value in damage:
        content[int(place * len(content))] = value
    one, other = tmp_path / "one.o", tmp_path / "other.o"
    one.write_bytes(whole)
    other.write_bytes(content)
    with contextlib.suppress(EnvironmentFault, BuildStopped):
        account = take_account(one, other, SIZES)
        write_original(account, tmp_path / "copy.o")
        settle(account, source="x.c", carried=Carried(None, frozenset()))


@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_zeros_without_end_take_no_room(tmp_path: Path, size: int) -> None:
    def with_zeros(name: str) -> Path:
        one = made()
        one.sections.append((name, "NOBITS", 3, 0, b"", size))
        one.symbol("big", name, size=size, kind=OBJECT)
        one.symbol("f", ".text.f", size=32, kind=FUNC)
        return one.write(tmp_path / f"{name.strip('._')}.o")

    assert take_account(with_zeros(".bss.big"), with_zeros(".bss.big"), SIZES).empty
    take_account(with_zeros("__ex_table"), with_zeros("__ex_table"), SIZES)
