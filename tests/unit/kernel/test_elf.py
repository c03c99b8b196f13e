# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files are read correctly; damaged or hostile ones are refused with one code."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from elf_maker import FUNC, GLOBAL, LOCAL, OBJECT, Made
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.elf import BIND_GLOBAL, TYPE_FUNC, TYPE_OBJECT, ElfFile, build_id_of_notes
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import run

BUILD_ID = bytes.fromhex("bb603a9147d3efe4744bf83c83eee397c591cc20")
NOTE = struct.pack("<III", 4, len(BUILD_ID), 3) + b"GNU\0" + BUILD_ID


def sample() -> Made:
    made = Made()
    made.section(".text.one", b"\x90" * 32, code=True).section(".data", b"\1\2\3\4").section(".note", NOTE, kind="NOTE")
    made.section(".modinfo", b"vermagic=6.1 SMP\0alias=a\0alias=b\0broken\0")
    made.section(".bss", b"\0" * 4096, kind="NOBITS")
    made.file("one.c")
    one = made.symbol("one", ".text.one", value=4, size=20)
    made.symbol("datum", ".data", size=4, kind=OBJECT, bind=GLOBAL)
    made.symbol("elsewhere", 0, kind=0, bind=GLOBAL)
    made.relocation(".text.one", 5, one, kind=4, addend=-4)
    return made


def read_everything(path: Path) -> None:
    elf = ElfFile(path)
    for section in elf.sections:
        elf.content(section)
        list(elf.relocations(section))
    for symbol in elf.symbols:
        assert not symbol.defined or elf.sections[symbol.section]
    assert isinstance(elf.build_id, str)
    assert isinstance(elf.modinfo, dict)


def test_symbols_have_their_names_places_and_kinds(tmp_path: Path) -> None:
    elf = ElfFile(sample().write(tmp_path / "a.o"))
    one, datum, elsewhere = (next(symbol for symbol in elf.symbols if symbol.name == name)
                             for name in ("one", "datum", "elsewhere"))  # fmt: skip
    assert (one.value, one.size, one.kind, elf.sections[one.section].name) == (4, 20, TYPE_FUNC, ".text.one")
    assert (datum.kind, datum.bind, datum.defined) == (TYPE_OBJECT, BIND_GLOBAL, True)
    assert not elsewhere.defined


def test_relocations_belong_to_the_section_that_they_apply_to(tmp_path: Path) -> None:
    elf = ElfFile(sample().write(tmp_path / "a.o"))
    (entry,) = elf.relocations(elf.by_name[".text.one"])
    assert (entry.offset, entry.kind, elf.symbols[entry.symbol].name, entry.addend) == (5, 4, "one", -4)
    assert list(elf.relocations(elf.by_name[".data"])) == []


def test_code_sections_are_distinguished_from_data(tmp_path: Path) -> None:
    elf = ElfFile(sample().write(tmp_path / "a.o"))
    assert elf.by_name[".text.one"].executable
    assert not elf.by_name[".data"].executable


def test_a_section_without_room_in_the_file_has_no_content(tmp_path: Path) -> None:
    elf = ElfFile(sample().write(tmp_path / "a.o"))
    assert elf.by_name[".bss"].size == 4096
    assert elf.named(".bss") == b""
    assert elf.named(".nothing") == b""


def test_a_part_of_a_section_is_what_its_content_holds_there(tmp_path: Path) -> None:
    made = Made().section(".text", b"0123456789", code=True).section(".data", b"behind")
    file = ElfFile(made.write(tmp_path / "a.o"))
    section = file.by_name[".text"]
    assert file.part(section, 3, 4) == b"3456"
    assert file.part(section, 8, 100) == b"89"
    assert file.part(section, -1, 4) == b""
    assert file.part(section, 50, 4) == b""


def test_build_id_and_modinfo_are_read(tmp_path: Path) -> None:
    elf = ElfFile(sample().write(tmp_path / "a.o"))
    assert elf.build_id == BUILD_ID.hex()
    assert elf.modinfo == {"vermagic": ["6.1 SMP"], "alias": ["a", "b"]}


def test_more_sections_than_a_header_can_number_are_read(tmp_path: Path) -> None:
    made = Made()
    for _ in range(0xFF10):
        made.section(".text.one", code=True)
    elf = ElfFile(made.section(".last", b"here").write(tmp_path / "many.o"))
    assert len(elf.sections) > 0xFF10
    assert elf.named(".last") == b"here"


def test_a_file_without_sections_has_none(tmp_path: Path) -> None:
    data = bytearray(sample().data()[:64])
    data[40:48] = bytes(8)  # e_shoff
    (tmp_path / "a").write_bytes(data)
    assert ElfFile(tmp_path / "a").sections == ()


def test_sections_are_those_that_binutils_sees(tmp_path: Path) -> None:
    path = sample().write(tmp_path / "a.o")
    said = run(["readelf", "--wide", "--section-headers", str(path)], timeout_s=20).text
    seen = re.findall(r"^ +\[ *(\d+)\] (\S+) +\S+ +([0-9a-f]{16}) ([0-9a-f]{6,}) ([0-9a-f]{6,})", said, re.MULTILINE)
    own = [(str(one.number), one.name, one.address, one.offset, one.size) for one in ElfFile(path).sections[1:]]
    assert [(number, name, *(int(value, 16) for value in values)) for number, name, *values in seen] == own


def test_a_build_id_is_found_behind_other_notes() -> None:
    other = struct.pack("<III", 6, 3, 1) + b"Linux\0\0\0" + b"abc\0"
    assert build_id_of_notes(other + NOTE) == BUILD_ID.hex()
    assert build_id_of_notes(other) == ""
    assert build_id_of_notes(b"") == ""


@given(st.binary(max_size=200))
def test_no_notes_break_the_search_for_a_build_id(notes: bytes) -> None:
    assert set(build_id_of_notes(notes)) <= set("0123456789abcdef")


def test_a_file_truncated_anywhere_is_malformed_or_whole(tmp_path: Path) -> None:
    data = sample().data()
    for length in range(0, len(data), 64):
        path = tmp_path / f"{length}.o"
        path.write_bytes(data[:length])
        with pytest.raises(EnvironmentFault) as caught:
            read_everything(path)
        assert caught.value.problem.code == "elf-malformed"
        assert path.name in caught.value.problem.message


@given(
    st.lists(
        st.tuples(st.one_of(st.integers(0, 63), st.integers(0, 4000)), st.integers(0, 255)), min_size=1, max_size=8
    )
)
def test_flipped_bytes_give_a_clean_answer_or_elf_malformed(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(sample().data())
    for place, value in flips:
        data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "flipped.o"
    path.write_bytes(bytes(data))
    try:
        read_everything(path)
    except EnvironmentFault as fault:
        assert fault.problem.code == "elf-malformed"  # noqa: PT017 - both ends are right


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_malformed(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.o"
    path.write_bytes(data)
    with pytest.raises(EnvironmentFault) as caught:
        read_everything(path)
    assert caught.value.problem.code == "elf-malformed"


@pytest.mark.parametrize(
    ("place", "value", "what"), [(4, 1, "32-bit"), (5, 2, "big-endian")], ids=["32-bit", "big-endian"]
)
def test_other_classes_and_byte_orders_are_refused(tmp_path: Path, place: int, value: int, what: str) -> None:
    data = bytearray(sample().data())
    data[place] = value
    (tmp_path / "a.o").write_bytes(bytes(data))
    with pytest.raises(EnvironmentFault):
        read_everything(tmp_path / "a.o")


def test_a_relocation_to_a_symbol_that_is_not_there_is_malformed(tmp_path: Path) -> None:
    made = sample().relocation(".data", 0, 999)
    elf = ElfFile(made.write(tmp_path / "a.o"))
    with pytest.raises(EnvironmentFault, match="symbol that does not exist"):
        list(elf.relocations(elf.by_name[".data"]))


def test_a_symbol_in_a_section_that_is_not_there_is_malformed(tmp_path: Path) -> None:
    made = sample()
    made.symbol("lost", 77)
    with pytest.raises(EnvironmentFault, match="section that does not exist"):
        _ = ElfFile(made.write(tmp_path / "a.o")).symbols


def test_a_name_of_megabytes_is_malformed(tmp_path: Path) -> None:
    made = sample()
    made.symbol("a" * 3_000_000, ".data", kind=FUNC, bind=LOCAL)
    with pytest.raises(EnvironmentFault, match="name has no end"):
        _ = ElfFile(made.write(tmp_path / "a.o")).symbols


def test_a_file_that_is_not_there_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _ = ElfFile(tmp_path / "nowhere.o").sections
