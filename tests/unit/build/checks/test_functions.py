# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that a module replaces, read from its livepatch sections in kpatch's format and in klp-build's."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from elf_maker import SECTION, Made
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.checks.functions import Replaced, read_functions
from elivepatch.kernel.elf import ElfFile

KPATCH, OBJECTS, FUNCS, STRINGS = ".kpatch.funcs", ".init.klp_objects", ".init.klp_funcs", ".strings"
Wanted = list[tuple[str, str, int]]


def read(made: Made, directory: Path) -> tuple[Replaced, ...]:
    path = directory / "module.ko"
    path.write_bytes(made.data())
    return read_functions(ElfFile(path))


def of_kpatch(wanted: Wanted) -> Made:
    """One entry of struct kpatch_patch_func for each function."""
    strings, made = bytearray(), Made()
    pointers = []
    for number, (object_name, name, _position) in enumerate(wanted):
        for field, text in ((40, name), (48, object_name)):
            pointers.append((56 * number + field, len(strings)))
            strings += text.encode() + b"\0"
    made.section(KPATCH, b"".join(struct.pack("<4QQ2Q", 0, 0, 0, 0, position, 0, 0) for *_, position in wanted))
    made.section(STRINGS, bytes(strings))
    symbol = made.symbol("", STRINGS, kind=SECTION)
    for offset, at in pointers:
        made.relocation(KPATCH, offset, symbol, addend=at)
    return made


def of_klp(wanted: Wanted) -> Made:
    """One struct klp_object_ext for each object, with its struct klp_func_ext behind each other."""
    strings, made = bytearray(), Made()
    objects = list(dict.fromkeys(object_name for object_name, *_ in wanted))
    grouped = [one for name in objects for one in wanted if one[0] == name]
    made.section(OBJECTS, b"".join(struct.pack("<56xI4x", sum(one[0] == name for one in wanted)) for name in objects))
    made.section(FUNCS, b"".join(struct.pack("<16xQ", position) for *_, position in grouped))
    pointers, first = [], 0
    for number, name in enumerate(objects):
        if name != "vmlinux":
            pointers.append((OBJECTS, 64 * number, len(strings)))
            strings += name.encode() + b"\0"
    for number, (_object, name, _position) in enumerate(grouped):
        pointers.append((FUNCS, 24 * number, len(strings)))
        strings += name.encode() + b"\0"
    made.section(STRINGS, bytes(strings))
    text, functions = made.symbol("", STRINGS, kind=SECTION), made.symbol("", FUNCS, kind=SECTION)
    for section, offset, at in pointers:
        made.relocation(section, offset, text, addend=at)
    for number, name in enumerate(objects):
        made.relocation(OBJECTS, 64 * number + 8, functions, addend=24 * first)
        first += sum(one[0] == name for one in wanted)
    return made


FUNCTIONS = [("vmlinux", "meminfo_proc_show", 0), ("vmlinux", "c_start", 3), ("minix", "minix_get_block", 1)]


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    for made in (of_kpatch(FUNCTIONS), of_klp(FUNCTIONS)):
        assert read(made, tmp_path) == tuple(Replaced(*one) for one in FUNCTIONS)


def test_a_module_that_is_no_livepatch_replaces_nothing(tmp_path: Path) -> None:
    assert read(Made().section(".text", b"\xc3", code=True), tmp_path) == ()


def test_a_count_beyond_the_table_is_not_believed(tmp_path: Path) -> None:
    made = of_klp(FUNCTIONS[:1])
    name, kind, flags, address, content, size = made.sections[0]
    lying = content[:56] + struct.pack("<I", 0xFFFFFFFF) + content[60:]
    made.sections[0] = (name, kind, flags, address, lying, size)
    assert read(made, tmp_path) == (Replaced("vmlinux", "meminfo_proc_show", 0),)


@given(
    st.binary(min_size=64, max_size=200), st.binary(max_size=100), st.sampled_from([0, 8, 16, 72]),
    st.integers(-200, 200)
)  # fmt: skip
def test_any_content_is_read_without_a_fault(objects: bytes, funcs: bytes, offset: int, addend: int) -> None:
    made = Made().section(OBJECTS, objects).section(FUNCS, funcs).section(STRINGS, b"text")
    symbol = made.symbol("", STRINGS, kind=SECTION)
    for section in (OBJECTS, FUNCS):
        made.relocation(section, offset, symbol, addend=addend)
    with tempfile.TemporaryDirectory() as directory:
        assert all(isinstance(found.name, str) for found in read(made, Path(directory)))
