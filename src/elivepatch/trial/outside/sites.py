# SPDX-License-Identifier: GPL-2.0-or-later
"""Places where the kernel patches its own code while it runs, and what it may write there.

Four kinds, each with its table in vmlinux or in the module: ftrace's calls at the entries of functions, and the calls
inside ftrace's own entry code (arch/x86/kernel/ftrace.c); jump labels (arch/x86/kernel/jump_label.c); static calls and
their trampolines (arch/x86/kernel/static_call.c). Alternatives, retpolines, returns, lock prefixes and sealed ENDBRs
are patched before the first look, and kprobes are not set in a trial: another byte of the code that changes between
two looks was not changed by the kernel itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

CALL_BYTES = 5
"""Length of a near call."""

NOP5 = bytes.fromhex("0f1f440000")
_NOP2 = bytes.fromhex("6690")
_CALL, _JUMP, _SHORT_JUMP = 0xE8, 0xE9, 0xEB
_ZERO = (bytes.fromhex("66664831c0"), bytes.fromhex("2e2e2e31c0"))  # returns 0, in five bytes
_RETURN = bytes.fromhex("c3cccccccc")
_CHUNK_BYTES = 256 << 10
_PAGE = 4096


class SiteKind(StrEnum):
    """Kinds of places."""

    FTRACE = "ftrace"
    FTRACE_ENTRY = "ftrace-entry"
    JUMP_LABEL = "jump-label"
    STATIC_CALL = "static-call"
    TABLE = (
        "table"  # no place of the kernel's own: a pointer of an operation table that the livepatch's callbacks write
    )


_SIZE = {SiteKind.FTRACE: 5, SiteKind.FTRACE_ENTRY: 5, SiteKind.JUMP_LABEL: 5, SiteKind.STATIC_CALL: 6}
_LONGEST = max(_SIZE.values())


class Site(NamedTuple):
    """One place; `target` is where a jump label jumps, 0 for other kinds."""

    address: int
    kind: SiteKind
    target: int = 0


@dataclass(frozen=True, slots=True)
class Sites:
    """The places of vmlinux or of one module, in the order of their addresses."""

    places: Sequence[Site] = ()

    @classmethod
    def of(cls, places: Iterator[Site]) -> Sites:
        """Return them in order."""
        return cls(tuple(sorted(places)))

    def between(self, start: int, stop: int) -> Sequence[Site]:
        """Return the places that begin in a range."""
        return self.places[bisect_left(self.places, (start,)) : bisect_left(self.places, (stop,))]

    def entry_of(self, function: int) -> int | None:
        """Return the address of ftrace's call in a function: at its entry, or after an ENDBR of four bytes there."""
        for address in (function, function + 4):
            if any(site.kind is SiteKind.FTRACE for site in self.between(address, address + 1)):
                return address
        return None


@dataclass(frozen=True, slots=True)
class Targets:
    """Tests of the addresses that self-patched code may lead to: ftrace's entry code, what it may call, any code."""

    is_ftrace: Callable[[int], bool]
    is_handler: Callable[[int], bool]
    is_code: Callable[[int], bool]
    is_entry: Callable[[int], bool] | None = None
    """Test of a pointer in the constants; None if nothing may write there."""


@dataclass(slots=True)
class Changes:
    """Differences of two looks at one range: self-patched places by kind, and the addresses of all other ones."""

    explained: Counter[str] = field(default_factory=Counter)
    unexplained: list[int] = field(default_factory=list)


def called(code: bytes, address: int) -> int | None:
    """Return where the 5-byte call at `address` goes, None if the bytes are no call."""
    return _target(code, address) if len(code) >= CALL_BYTES and code[0] == _CALL else None


def compare(before: bytes, now: bytes, start: int, sites: Sites, targets: Targets) -> Changes:
    """Compare two looks at the same range from `start` on; at most one address for each page is reported."""
    changes = Changes()
    if len(before) != len(now):
        changes.unexplained.append(start)
        return changes
    old, new = memoryview(before), memoryview(now)
    for chunk in range(0, len(before), _CHUNK_BYTES):
        if old[chunk : chunk + _CHUNK_BYTES] == new[chunk : chunk + _CHUNK_BYTES]:
            continue
        for page in range(chunk, min(chunk + _CHUNK_BYTES, len(before)), _PAGE):
            if old[page : page + _PAGE] != new[page : page + _PAGE]:
                _compare_page(before, now, start, page, sites, targets, changes)
    return changes


def _compare_page(
    before: bytes, now: bytes, start: int, page: int, sites: Sites, targets: Targets, changes: Changes
) -> None:
    end = min(page + _PAGE, len(before))
    left = bytearray(now[page:end])
    for site in sites.between(start + page - _LONGEST, start + end):
        at = site.address - start
        old, new = before[max(at, 0) : at + _SIZE[site.kind]], now[max(at, 0) : at + _SIZE[site.kind]]
        size = _size(site, old, new, targets) if at >= 0 and old != new else 0
        if size:
            first, last = max(at, page), min(at + size, end)
            left[first - page : last - page] = before[first:last]
            # Counted once, in the page with its first byte that changed.
            counted = before[at:first] == now[at:first] and before[first:last] != now[first:last]
            if counted:
                changes.explained[site.kind] += 1
    if targets.is_entry is not None:
        _restore_tables(before[page:end], left, targets.is_entry, changes)
    for offset, (was, byte) in enumerate(zip(before[page:end], left, strict=True)):
        if was != byte:
            changes.unexplained.append(start + page + offset)
            return


def _restore_tables(before: bytes, left: bytearray, is_entry: Callable[[int], bool], changes: Changes) -> None:
    for at in range(0, len(left) - len(left) % 8, 8):
        if left[at : at + 8] != before[at : at + 8] and is_entry(int.from_bytes(left[at : at + 8], "little")):
            left[at : at + 8] = before[at : at + 8]
            changes.explained[SiteKind.TABLE] += 1


def _size(site: Site, old: bytes, new: bytes, targets: Targets) -> int:
    """Return how many bytes of a changed place the kernel may have written itself, 0 if it never writes these."""
    if site.kind is SiteKind.FTRACE:
        return CALL_BYTES if new[:5] == NOP5 or _leads(new, site.address, targets.is_ftrace) else 0
    if site.kind is SiteKind.FTRACE_ENTRY:
        return CALL_BYTES if new[:5] == NOP5 or _leads(new, site.address, targets.is_handler) else 0
    if site.kind is SiteKind.JUMP_LABEL:
        return _size_of_jump(site, old, new)
    return _size_of_static_call(site, new, targets)


def _size_of_jump(site: Site, old: bytes, new: bytes) -> int:
    distance = site.target - site.address
    if old[0] == _SHORT_JUMP or old[:2] == _NOP2:
        short = bytes([_SHORT_JUMP, (distance - 2) & 0xFF]) if -128 <= distance - 2 <= 127 else b""
        return 2 if new[:2] in {_NOP2, short} else 0
    long = bytes([_JUMP]) + ((distance - 5) & 0xFFFFFFFF).to_bytes(4, "little")
    return 5 if new[:5] in {NOP5, long} else 0


def _size_of_static_call(site: Site, new: bytes, targets: Targets) -> int:
    if new[:5] in {NOP5, *_ZERO, _RETURN}:
        return 5
    if new[0] in {_CALL, _JUMP} and len(new) >= 5:
        return 5 if targets.is_code(_target(new, site.address)) else 0
    if new[0] == 0x0F and new[1] & 0xF0 == 0x80 and len(new) == 6:  # a conditional tail call
        return 6 if targets.is_code(_target(new[1:], site.address + 1)) else 0
    return 0


def _leads(code: bytes, address: int, test: Callable[[int], bool]) -> bool:
    target = called(code, address)
    return target is not None and test(target)


def _target(code: bytes, address: int) -> int:
    return (address + 5 + int.from_bytes(code[1:5], "little", signed=True)) & 0xFFFFFFFFFFFFFFFF
