# SPDX-License-Identifier: GPL-2.0-or-later
"""The places of members are read from BTF, and nothing is from what is damaged."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.btf import read_btf
from elivepatch.trial.outside.layout import read_layouts


def sample() -> bytes:
    """Return BTF of `struct klp_func { int a; struct { int x; } ; int b:3; }` behind types of other kinds."""
    names = b"\0int\0klp_func\0a\0b\0unused_klp_func\0"

    def name(text: str) -> int:
        return names.index(b"\0" + text.encode() + b"\0") + 1 if text else 0

    def head(text: str, kind: int, count: int, rest: int, flag: int = 0) -> bytes:
        return struct.pack("<III", name(text), flag << 31 | kind << 24 | count, rest)

    def member(text: str, target: int, offset: int) -> bytes:
        return struct.pack("<III", name(text), target, offset)

    types = head("int", 1, 0, 4) + struct.pack("<I", 32)
    types += head("", 3, 0, 0) + struct.pack("<III", 1, 1, 4)  # an array
    types += head("unused_klp_func", 4, 1, 4) + member("a", 1, 0)
    types += head("", 13, 1, 1) + struct.pack("<II", 0, 1)  # a prototype
    types += head("", 4, 1, 4) + member("a", 1, 0)
    types += head("klp_func", 4, 3, 16, 1) + member("a", 1, 0) + member("", 5, 64) + member("b", 1, 3 << 24 | 96)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names


def test_a_structures_members_are_at_the_places_that_btf_gives() -> None:
    found = read_layouts(sample(), ["klp_func", "klp_ops"])
    assert set(found) == {"klp_func"}
    assert found["klp_func"].size == 16
    assert found["klp_func"].members == {"a": 0, "": 8, "b": 12}


def test_the_full_reader_agrees() -> None:
    (full,) = read_btf(sample()).by_tag["klp_func"]
    members = {one.name: one.offset // 8 for one in full.members}
    assert read_layouts(sample(), ["klp_func"])["klp_func"].members == members


@given(st.data())
def test_damaged_types_are_read_in_part_or_not_at_all(data: st.DataObject) -> None:
    content = bytearray(sample())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert set(read_layouts(bytes(content[: data.draw(st.integers(0, len(content)))]), ["klp_func"])) <= {"klp_func"}
