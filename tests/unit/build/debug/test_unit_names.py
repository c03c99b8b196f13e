# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of compile units: each version and form of DWARF that compilers write; damaged ones are refused with one code.

The kernel lane compares them with what readelf prints for a whole kernel.
"""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import pytest
from dwarf_maker import LINE_STRP, STRING, STRP, STRX, STRX1, Dwarf
from elf_maker import Made
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.debug import unit_names as reader
from elivepatch.build.debug.unit_names import has_compressed_sections, unit_names
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import run


def read(dwarf: Dwarf, tmp_path: Path) -> list[str]:
    return list(unit_names(ElfFile(dwarf.made().write(tmp_path / "vmlinux"))))


def code_of(path: Path) -> str:
    """Return the code of the refusal of a file, empty if it is read."""
    try:
        list(unit_names(ElfFile(path)))
    except EnvironmentFault as fault:
        return fault.problem.code
    return ""


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@pytest.mark.parametrize("relocatable", [True, False], ids=["module", "vmlinux"])
@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
@given(data=st.data())
def test_all_names_are_read_in_each_version_and_form(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, wide: bool, relocatable: bool
) -> None:
    version = data.draw(st.integers(2, 5))
    forms = [STRING, STRP, *[LINE_STRP, STRX, STRX1] * (version == 5)]
    units = data.draw(st.lists(st.tuples(NAMES, st.sampled_from(forms)), max_size=20))
    dwarf = Dwarf(version, wide, relocatable)
    for name, form in units:
        dwarf.unit(name, form)
    assert read(dwarf, tmp_path_factory.mktemp("dwarf")) == [name for name, _ in units]


@given(data=st.data())
def test_damaged_debug_information_is_refused_or_read_and_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(Dwarf().unit("fs/a.c", STRP).unit("fs/b.c", STRX).unit("fs/c.c", STRING).made().data())
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(64, len(whole) - 1), st.integers(0, 255)), max_size=8)
    ):
        whole[place] = value
    path = tmp_path_factory.mktemp("dwarf") / "a.ko"
    path.write_bytes(whole)
    assert code_of(path) in {"", "elf-malformed"}


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (b"\xff\0\0\0\5\0", "longer than its section"),
        (struct.pack("<IHBBI", 8, 9, 1, 8, 0), "version 9"),
        (struct.pack("<IHBBI", 8, 5, 77, 8, 0), "unknown type 77"),
        (b"\xf5\xff\xff\xff", "unknown format"),
        (struct.pack("<IHIBB", 8, 4, 999, 8, 5), "abbreviations are missing"),
        (struct.pack("<IHIB", 7, 4, 0, 8) + b"\xff" * 20, "longer than its section|without an end"),
    ],
)
def test_a_unit_that_cannot_be_is_named(tmp_path: Path, info: bytes, reason: str) -> None:
    dwarf = Dwarf(relocatable=False).unit("fs/a.c", STRING)
    dwarf.info = bytearray(info)
    with pytest.raises(EnvironmentFault, match=reason):
        read(dwarf, tmp_path)


def test_relocations_out_of_order_are_refused_and_not_taken_for_missing_ones(tmp_path: Path) -> None:
    """Without its relocation, a name would be that at the start of the strings: the source of another object."""
    dwarf = Dwarf().unit("fs/a.c", STRP).unit("fs/b.c", STRP)
    dwarf.places.reverse()
    with pytest.raises(EnvironmentFault, match="not in order"):
        read(dwarf, tmp_path)


def test_a_file_whose_tool_has_applied_the_relocations_is_read_as_it_stands(tmp_path: Path) -> None:
    """Some distributions do that to the debug files of modules (eu-strip --reloc-debug-sections)."""
    made = Dwarf(relocatable=False).unit("fs/a.c", STRP).made()
    made.kind = 1
    assert list(unit_names(ElfFile(made.write(tmp_path / "a.ko.debug")))) == ["fs/a.c"]


def test_more_units_or_abbreviations_than_any_kernel_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dwarf = Dwarf().unit("fs/a.c", STRP).unit("fs/b.c", STRP).unit("fs/c.c", STRP)
    path = dwarf.made().write(tmp_path / "a.ko")
    assert code_of(path) == ""
    for limit in ("_UNITS", "_ABBREVIATIONS"):
        with monkeypatch.context() as patch:
            patch.setattr(reader, limit, 2)
            assert code_of(path) == "elf-malformed"


def test_a_file_without_debug_information_has_no_names(tmp_path: Path) -> None:
    assert list(unit_names(ElfFile(Made().section(".text", b"\xc3", code=True).write(tmp_path / "a.ko")))) == []


def test_compressed_sections_are_noticed(tmp_path: Path) -> None:
    for name, flags, expected in ((".debug_info", 0, False), (".debug_info", 0x800, True), (".zdebug_info", 0, True)):
        elf = ElfFile(Made().section(name, b"ZLIB", flags=flags).write(tmp_path / f"{name}-{flags}"))
        assert has_compressed_sections(elf) is expected


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_the_names_are_those_that_readelf_prints(tmp_path: Path, version: int) -> None:
    if not (shutil.which("gcc") and shutil.which("readelf")):
        pytest.skip("needs gcc and binutils")
    for name in ("a.c", "b.c"):
        (tmp_path / name).write_text(f"struct s {{ int x; }};\nint {name[0]}(struct s *s) {{ return s->x; }}\n")
        run(["gcc", "-g", f"-gdwarf-{version}", "-c", f"./{name}", "-o", f"{name}.o"], cwd=tmp_path).check("Compiling")
    run(["ld", "-r", "-o", "both.ko", "a.c.o", "b.c.o"], cwd=tmp_path).check("Linking")
    printed = run(["readelf", "-wi", "--dwarf-depth=1", tmp_path / "both.ko"]).text
    assert re.findall(r"DW_AT_name .*: (\S+)", printed) == ["./a.c", "./b.c"]
    assert list(unit_names(ElfFile(tmp_path / "both.ko"))) == ["./a.c", "./b.c"]
