# SPDX-License-Identifier: GPL-2.0-or-later
"""Code may differ between two looks in places that the kernel patches itself, and only as it patches them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.trial.outside.sites import NOP5, Changes, Site, SiteKind, Sites, Targets, called, compare

START = 0xFFFFFFFF81000000
FTRACE, HANDLER, CODE = START + 0x100, START + 0x200, START + 0x300
TARGETS = Targets(is_ftrace=lambda at: at == FTRACE, is_handler=lambda at: at == HANDLER, is_code=lambda at: at == CODE)
# One place in the middle of the first page, and one that crosses the end of it.
PLACES = (START + 0x400, START + 4094)
SHORT = bytes.fromhex("6690")
RETURN = bytes.fromhex("c3cccccccc")


def jump(kind: int, address: int, target: int) -> bytes:
    return bytes([kind]) + ((target - address - 5) & 0xFFFFFFFF).to_bytes(4, "little")


def conditional(address: int, target: int) -> bytes:
    return b"\x0f\x84" + ((target - address - 6) & 0xFFFFFFFF).to_bytes(4, "little")


def look(changed: dict[int, bytes]) -> bytes:
    content = bytearray(b"\x55" * 3 * 4096)
    for address, code in changed.items():
        content[address - START : address - START + len(code)] = code
    return bytes(content)


def changes(kind: SiteKind, address: int, old: bytes, new: bytes, target: int = 0) -> Changes:
    sites = Sites.of(iter([Site(address, kind, target)]))
    return compare(look({address: old}), look({address: new}), START, sites, TARGETS)


@pytest.mark.parametrize("address", PLACES)
def test_the_kernel_may_patch_its_places_as_it_does(address: int) -> None:
    call, leave = jump(0xE8, address, FTRACE), jump(0xE9, address, CODE)
    short = bytes([0xEB, 0x10])
    for kind, old, new, target in (
        (SiteKind.FTRACE, NOP5, call, 0),
        (SiteKind.FTRACE, call, NOP5, 0),
        (SiteKind.FTRACE_ENTRY, call, jump(0xE8, address, HANDLER), 0),
        (SiteKind.JUMP_LABEL, NOP5, leave, CODE),
        (SiteKind.JUMP_LABEL, leave, NOP5, CODE),
        (SiteKind.JUMP_LABEL, SHORT, short, address + 0x12),
        (SiteKind.JUMP_LABEL, short, SHORT, address + 0x12),
        (SiteKind.STATIC_CALL, NOP5, jump(0xE8, address, CODE), 0),
        (SiteKind.STATIC_CALL, jump(0xE8, address, CODE), RETURN, 0),
        (SiteKind.STATIC_CALL, conditional(address, FTRACE), conditional(address, CODE), 0),
    ):
        found = changes(kind, address, old, new, target)
        assert (dict(found.explained), found.unexplained) == ({kind: 1}, []), (kind, old, new)


@pytest.mark.parametrize("address", PLACES)
def test_other_bytes_at_these_places_are_no_patch_of_the_kernel(address: int) -> None:
    elsewhere = START + 0x5000
    for kind, old, new, target in (
        (SiteKind.FTRACE, NOP5, jump(0xE8, address, CODE), 0),
        (SiteKind.FTRACE, NOP5, jump(0xE9, address, FTRACE), 0),
        (SiteKind.FTRACE_ENTRY, jump(0xE8, address, HANDLER), jump(0xE8, address, FTRACE), 0),
        (SiteKind.JUMP_LABEL, NOP5, jump(0xE9, address, elsewhere), CODE),
        (SiteKind.JUMP_LABEL, NOP5, SHORT + NOP5[2:], CODE),
        (SiteKind.JUMP_LABEL, SHORT, b"\xeb\x20", address + 0x12),
        (SiteKind.STATIC_CALL, NOP5, jump(0xE8, address, elsewhere), 0),
        (SiteKind.STATIC_CALL, NOP5, b"\xcc" + NOP5[1:], 0),
        (SiteKind.STATIC_CALL, conditional(address, CODE), conditional(address, elsewhere), 0),
    ):
        found = changes(kind, address, old, new, target)
        assert found.unexplained, (kind, new)
        assert START <= found.unexplained[0] - address + START < START + 6


@given(st.integers(0, 3 * 4096 - 1), st.integers(0, 255))
def test_a_byte_that_changes_in_no_place_of_the_kernels_is_found(at: int, byte: int) -> None:
    before = look({PLACES[0]: NOP5, PLACES[1]: NOP5})
    now = bytearray(before)
    now[at] = byte
    sites = Sites.of(Site(address, SiteKind.FTRACE) for address in PLACES)
    found = compare(before, bytes(now), START, sites, TARGETS)
    assert found.unexplained == ([START + at] if byte != before[at] else [])


def test_a_patched_place_hides_no_change_beside_it() -> None:
    before = look({PLACES[0]: NOP5})
    now = look({PLACES[0]: jump(0xE8, PLACES[0], FTRACE), PLACES[0] + 5: b"\xcc", PLACES[0] + 0x1000: b"\xcc"})
    found = compare(before, now, START, Sites.of(iter([Site(PLACES[0], SiteKind.FTRACE)])), TARGETS)
    assert found.unexplained == [PLACES[0] + 5, PLACES[0] + 0x1000]


def test_a_range_of_another_length_is_a_change() -> None:
    assert compare(b"ab", b"abc", START, Sites(), TARGETS).unexplained == [START]


def test_the_entry_of_a_function_may_begin_with_an_endbr() -> None:
    sites = Sites.of(Site(address, SiteKind.FTRACE) for address in (0x1000, 0x2004))
    assert [sites.entry_of(function) for function in (0x1000, 0x2000, 0x2008)] == [0x1000, 0x2004, None]


def test_only_a_call_is_a_call() -> None:
    assert called(bytes.fromhex("e8fbffffff"), 0x1000) == 0x1000
    assert called(bytes.fromhex("e9fbffffff"), 0x1000) is None
    assert called(b"\xe8\0", 0x1000) is None
