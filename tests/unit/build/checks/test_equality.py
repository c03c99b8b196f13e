# SPDX-License-Identifier: GPL-2.0-or-later
"""Two modules are equal if they do the same; positions in the file do not count."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from elf_maker import FUNC, GLOBAL, NOTYPE, SECTION, Made
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.checks.equality import differences, read_facts
from elivepatch.model.errors import EnvironmentFault

SIZES = {"ALT_STRUCT_SIZE": 14, "BUG_STRUCT_SIZE": 12, "JUMP_STRUCT_SIZE": 16, "ORC_STRUCT_SIZE": 6}
PC32, ABS32 = 2, 11


class Part(NamedTuple):
    """Content of one object of a patch: a function with a string, an alternative, a warning and a place to unwind."""

    name: str
    code: bytes
    text: bytes
    replacement: bytes
    line: int
    unwind: int = 5


ONE = Part("one_show", b"\x55\x01\x02\x03\x04\xc3\0\0", b"one %d", b"\x0f\x01\xcb", 120)
TWO = Part("two_show", b"\x55\x05\x06\x07\x08\xc3\0\0", b"two", b"", 77, 8)
THREE = Part("three_show", b"\x55\x09\x09\x09\x09\xc3\0\0", b"three %s", b"\x90\x90", 1)


def module(path: Path, parts: Sequence[Part]) -> Path:
    """Write the module that `ld -r` makes of the objects in this order."""
    made = Made()
    texts, replacements = b"", b""
    at = []
    for part in parts:
        at.append((len(texts), len(replacements)))
        texts += part.text + b"\0"
        replacements += part.replacement
    for part in parts:
        made.section(f".text.{part.name}", part.code, code=True)
    made.section(".kpatch.strings", texts)
    made.section(".altinstr_replacement", replacements, code=True)
    alternatives = b"".join(struct.pack("<iiIBB", 0, 0, 7, 3, len(part.replacement)) for part in parts)
    made.section(".altinstructions", alternatives)
    made.section("__bug_table", b"".join(struct.pack("<iiHH", 0, 0, part.line, 1) for part in parts))
    made.section(".orc_unwind_ip", bytes(4 * len(parts)))
    made.section(".orc_unwind", b"".join(part.unwind.to_bytes(6, "little") for part in parts))
    made.section(".modinfo", b"license=GPL\0livepatch=Y\0")
    strings = made.symbol("", ".kpatch.strings", kind=SECTION)
    replaced = made.symbol("", ".altinstr_replacement", kind=SECTION)
    printing = made.symbol("seq_printf", bind=GLOBAL, kind=NOTYPE)
    for number, part in enumerate(parts):
        section = f".text.{part.name}"
        function = made.symbol(part.name, section, size=6, kind=FUNC)
        made.file(f"{part.name}.c")
        made.relocation(section, 1, strings, kind=ABS32, addend=at[number][0])
        made.relocation(section, 2, printing, addend=-4)
        made.relocation(".altinstructions", 14 * number, function, addend=1)
        made.relocation(".altinstructions", 14 * number + 4, replaced, addend=at[number][1])
        made.relocation("__bug_table", 12 * number, function, addend=2)
        made.relocation(".orc_unwind_ip", 4 * number, function)
    path.write_bytes(made.data())
    return path


def told(tmp_path: Path, one: Sequence[Part], other: Sequence[Part]) -> list[str]:
    return differences(
        read_facts(module(tmp_path / "one.ko", one), SIZES), read_facts(module(tmp_path / "other.ko", other), SIZES)
    )


def test_a_module_is_equal_to_itself(tmp_path: Path) -> None:
    assert told(tmp_path, [ONE, TWO], [ONE, TWO]) == []


@given(st.permutations([ONE, TWO, THREE]))
def test_the_order_of_the_objects_does_not_matter(parts: list[Part]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        assert told(Path(directory), [ONE, TWO, THREE], parts) == []


def test_the_lines_of_warnings_do_not_matter(tmp_path: Path) -> None:
    assert told(tmp_path, [ONE, TWO], [ONE._replace(line=123), TWO]) == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (ONE._replace(code=b"\x55\x01\x02\x03\x05\xc3\0\0"), "content of one_show"),
        (ONE._replace(text=b"one %u"), "relocation of one_show"),
        (ONE._replace(replacement=b"\x0f\x01\xca"), "entry of .altinstructions"),
        (ONE._replace(replacement=b"\x0f\x01"), "entry of .altinstructions"),
        (ONE._replace(unwind=16), "entry of .orc_unwind_ip"),
        (ONE._replace(name="one_showed"), "symbol one_showed"),
    ],
)
def test_what_a_module_does_matters(tmp_path: Path, changed: Part, what: str) -> None:
    lines = told(tmp_path, [ONE, TWO], [changed, TWO])
    assert any(line.startswith(f"+ {what}: ") for line in lines), lines
    assert not any("two_show" in line for line in lines), "equal facts are not listed"


def test_an_object_more_matters(tmp_path: Path) -> None:
    lines = told(tmp_path, [ONE], [ONE, TWO])
    assert all(line.startswith("+ ") for line in lines)
    assert any("two_show" in line for line in lines)


def with_relocation(path: Path, section: str) -> Path:
    made = Made().section(".text.f", b"\xe8\0\0\0\0\xc3", code=True)
    made.symbol("f", ".text.f", size=6)
    called = made.symbol(".klp.sym.vmlinux.g,2", 0xFF20, kind=NOTYPE)
    made.relocation(".text.f", 1, called, kind=4, addend=-4)
    path.write_bytes(made.data().replace(b".rela.text.f\0", section.encode().ljust(12, b"\0") + b"\0"))
    return path


def test_who_resolves_a_symbol_matters(tmp_path: Path) -> None:
    one = read_facts(with_relocation(tmp_path / "one.ko", ".rela.text.f"), SIZES)
    other = read_facts(with_relocation(tmp_path / "two.ko", ".klp.rela.v"), SIZES)
    (come, lost) = [line for line in differences(one, other) if "relocation of f" in line]
    assert ".klp.rela.v" not in lost
    assert ".klp.rela.v" in come
    assert ".klp.sym.vmlinux.g,2" in come


def replacing(path: Path, object_name: bytes, address: int, size: int) -> Path:
    texts = b"f\0" + object_name + b"\0"
    made = Made().section(".kpatch.funcs", struct.pack("<7Q", 0, 8, address, size, 1, 0, 0))
    made.section(".kpatch.strings", texts)
    strings = made.symbol("", ".kpatch.strings", kind=SECTION)
    for offset, place in ((40, 0), (48, 2)):
        made.relocation(".kpatch.funcs", offset, strings, kind=1, addend=place)
    path.write_bytes(made.data())
    return path


@pytest.mark.parametrize(("object_name", "equal"), [(b"loop", True), (b"vmlinux", False)])
@pytest.mark.parametrize("where", [(0xFA0, 8), (0, 24)])
def test_where_an_old_function_is_matters_in_vmlinux_only(
    tmp_path: Path, object_name: bytes, equal: bool, where: tuple[int, int]
) -> None:
    one = read_facts(replacing(tmp_path / "one.ko", object_name, 0, 8), SIZES)
    other = read_facts(replacing(tmp_path / "two.ko", object_name, *where), SIZES)
    assert (differences(one, other) == []) is equal


def test_debug_information_and_the_build_id_do_not_matter(tmp_path: Path) -> None:
    plain, debugged = (Made().section(".text.f", b"\xc3", code=True) for _ in range(2))
    for made in (plain, debugged):
        made.symbol("f", ".text.f", size=1)
    debugged.section(".debug_info", b"abc").section(".comment", b"GCC").section(".note.gnu.build-id", b"x", kind="NOTE")
    (tmp_path / "plain").write_bytes(plain.data())
    (tmp_path / "debugged").write_bytes(debugged.data())
    assert differences(*(read_facts(tmp_path / name, SIZES) for name in ("plain", "debugged"))) == []


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=2000))
def test_a_damaged_module_is_told_or_read(damage: bytes, place: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = module(Path(directory) / "m.ko", [ONE, TWO])
        raw = bytearray(path.read_bytes())
        raw[place : place + len(damage)] = damage
        path.write_bytes(raw)
        code = "read"
        try:
            read_facts(path, SIZES)
        except EnvironmentFault as fault:
            code = fault.problem.code
        assert code in {"read", "elf-malformed"}
