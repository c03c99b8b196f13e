# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF is read as the kernel's documentation describes it; what is damaged is refused."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from c_types import types_of
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.btf import SIGNED, BtfKind, Member, read_btf
from elivepatch.model.errors import EnvironmentFault

SOURCE = """\
typedef unsigned int u32;
enum state { IDLE, BUSY = 7 };
struct demo {
	int first;
	unsigned flags:3, kind:4;
	union { int number; char text[6]; };
	struct unknown *pointer;
	const u32 *words;
	int (*open)(struct demo *one, ...);
	enum state state;
};
struct demo demo = { .state = BUSY };
static long count;
int use(struct demo *one) { return one->first + count; }
"""


def made(*types: bytes, names: bytes = b"\0") -> bytes:
    """BTF written by hand: the compiler here makes no 64-bit enumerators."""
    body = b"".join(types)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(names)) + body + names


def test_members_have_places_in_bits_and_bit_fields_widths() -> None:
    btf = read_btf(types_of(SOURCE))
    (demo,) = btf.by_tag["demo"]
    assert (demo.kind, demo.size) == (BtfKind.STRUCT, 48)
    assert [(one.name, one.offset, one.width) for one in demo.members] == [
        ("first", 0, 0), ("flags", 32, 3), ("kind", 35, 4), ("", 64, 0), ("pointer", 128, 0), ("words", 192, 0),
        ("open", 256, 0), ("state", 320, 0),
    ]  # fmt: skip
    first, *_others = (btf.plain(one.type) for one in demo.members)
    assert (first.name, first.size, first.encoding) == ("int", 4, SIGNED)


def test_functions_variables_and_enumerators_are_there() -> None:
    btf = read_btf(types_of(SOURCE))
    (use,) = btf.named[BtfKind.FUNCTION, "use"]
    prototype = btf.types[use.target]
    assert [one.name for one in prototype.members] == ["one"]
    variables = {name: btf.sections[one[0].number] for (kind, name), one in btf.named.items()
                 if kind is BtfKind.VARIABLE}  # fmt: skip
    assert variables == {"demo": ".data", "count": ".bss"}
    assert [one.enumerators for one in btf.types if one.name == "state"] == [(("IDLE", 0), ("BUSY", 7))]


def test_declared_structures_have_a_tag_only() -> None:
    btf = read_btf(types_of(SOURCE))
    assert btf.tags == {"demo", "unknown"}
    assert set(btf.by_tag) == {"demo"}


def test_typedefs_and_qualifiers_lead_to_a_type_with_a_size() -> None:
    btf = read_btf(types_of(SOURCE))
    (demo,) = btf.by_tag["demo"]
    words = btf.plain(demo.members[5].type)
    assert btf.unqualified(words.target).name == "u32"
    assert btf.plain(words.target).name == "unsigned int"
    assert [btf.size_of(one.type) for one in demo.members] == [4, 4, 4, 8, 8, 8, 8, 4]
    (text,) = (one for one in btf.types if one.kind is BtfKind.ARRAY)
    assert (text.length, btf.size_of(text.number), btf.element(text.number).name) == (6, 6, "char")


def test_wide_enumerators_are_signed_if_they_say_so() -> None:
    entry = struct.pack("<III", 1, 0xFFFFFFFE, 0xFFFFFFFF)
    for flag, value in ((1, -2), (0, (1 << 64) - 2)):
        head = struct.pack("<III", 0, flag << 31 | BtfKind.ENUM64 << 24 | 1, 8)
        assert read_btf(made(head + entry, names=b"\0A\0")).types[1].enumerators == (("A", value),)


def test_the_last_parameter_without_a_type_stands_for_any_number() -> None:
    head = struct.pack("<III", 0, BtfKind.PROTOTYPE << 24 | 1, 0)
    assert read_btf(made(head + struct.pack("<II", 0, 0))).types[1].members == (Member("", 0),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x9f\xeb\x02" + bytes(21),
        made(struct.pack("<III", 0, BtfKind.POINTER << 24, 9)),
        made(struct.pack("<III", 5, BtfKind.INT << 24, 4) + bytes(4)),
        made(struct.pack("<III", 0, BtfKind.STRUCT << 24 | 3, 4)),
        made(struct.pack("<III", 0, 31 << 24, 4)),
    ],
)
def test_damaged_types_are_refused(content: bytes) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        read_btf(content)
    assert caught.value.problem.code == "elf-malformed"


def test_types_that_refer_to_themselves_have_no_end() -> None:
    btf = read_btf(made(struct.pack("<III", 0, BtfKind.CONST << 24, 1)))
    with pytest.raises(EnvironmentFault):
        btf.plain(1)
    array = struct.pack("<III", 0, BtfKind.ARRAY << 24, 0) + struct.pack("<III", 1, 0, 2)
    with pytest.raises(EnvironmentFault):
        read_btf(made(array)).size_of(1)


@given(st.integers(0, 2000), st.integers(0, 255))
def test_any_damage_is_read_or_refused(at: int, byte: int) -> None:
    content = bytearray(types_of(SOURCE))
    content[at % len(content)] = byte
    with suppress(EnvironmentFault):
        read_btf(bytes(content))
