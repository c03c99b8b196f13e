# SPDX-License-Identifier: GPL-2.0-or-later
"""Prototypes of functions come from the BTF of vmlinux, and those of a module's functions from both files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from elf_maker import Made
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.prototypes import Prototype, prototypes

INT, PTR, TYPEDEF, FUNC, PROTO = 1, 2, 8, 12, 13
STRINGS = b"\0give\0print\0twice\0"
GIVE, PRINT, TWICE = 1, 6, 12


def entry(name: int, kind: int, to: int, *members: tuple[int, int], extra: bytes = b"") -> bytes:
    return struct.pack("<III", name, kind << 24 | len(members), to) + extra + b"".join(
        struct.pack("<II", *member) for member in members
    )  # fmt: skip


def btf(types: bytes, strings: bytes) -> bytes:
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def elf(directory: Path, content: bytes) -> ElfFile:
    directory.mkdir(exist_ok=True)
    return ElfFile(Made().section(".BTF", content).write(directory / "a.o"))


VMLINUX = btf(
    entry(0, INT, 4, extra=bytes(4))  # 1
    + entry(0, PTR, 1)  # 2
    + entry(0, TYPEDEF, 2)  # 3: a pointer by another name
    + entry(0, PROTO, 3, (0, 1), (0, 2)) + entry(GIVE, FUNC, 4)  # 4, 5
    + entry(0, PROTO, 0, (0, 2), (0, 0)) + entry(PRINT, FUNC, 6)  # 6, 7
    + entry(0, PROTO, 1) + entry(TWICE, FUNC, 8)  # 8, 9
    + entry(TWICE, FUNC, 4),  # 10
    STRINGS,
)  # fmt: skip


def test_parameters_are_counted_and_pointers_are_seen_behind_other_names(tmp_path: Path) -> None:
    assert prototypes(elf(tmp_path / "v", VMLINUX), None) == {
        "give": Prototype(2, returns_pointer=True),
        "print": Prototype(None, returns_pointer=False),
        "twice": Prototype(2, returns_pointer=True),
    }


def test_a_modules_types_and_names_continue_those_of_vmlinux(tmp_path: Path) -> None:
    own = btf(entry(0, PROTO, 3, (0, 1)) + entry(len(STRINGS) + 1, FUNC, 11) + entry(GIVE, FUNC, 8), b"\0mine\0")
    found = prototypes(elf(tmp_path / "v", VMLINUX), elf(tmp_path / "m", own))
    assert found == {"mine": Prototype(1, returns_pointer=True), "give": Prototype(0, returns_pointer=False)}


def test_a_file_without_btf_has_none(tmp_path: Path) -> None:
    assert prototypes(elf(tmp_path / "v", b""), None) == {}


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_damaged_btf_is_read_as_far_as_it_goes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    raw = bytearray(VMLINUX)
    raw[24 : 24 + len(content)] = content
    found = prototypes(elf(tmp_path_factory.mktemp("v"), bytes(raw)), None)
    assert all(shape.parameters is None or shape.parameters >= 0 for shape in found.values())
