# SPDX-License-Identifier: GPL-2.0-or-later
"""Main functions of kernel threads: replaced functions whose address the kernel passes to the creation of a thread.

A task switches to a livepatch when none of the replaced functions is on its stack. A thread's main function always is,
as long as the thread exists. The linked code shows it: an instruction loads the function's address, and the next call
goes to a function that creates a thread (include/linux/kthread.h, kernel/kthread.c, kernel/fork.c).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from elivepatch.kernel.elf import R_X86_64_PLT32, TYPE_FUNC, TYPE_SECTION, ElfFile, Relocation, Section, Symbol
from elivepatch.kernel.symbols import LinkedSymbols

CREATORS = frozenset(
    {
        "__kthread_create_on_node", "kthread_create_on_node", "kthread_create_on_cpu", "kernel_thread",
        "user_mode_thread", "create_io_thread", "create_kthread", "vhost_task_create",
    }
)  # fmt: skip
"""Functions whose first parameter is the main function of the thread that they create."""

SERVICES = frozenset({"svc_create", "svc_create_pooled"})
"""Functions one of whose parameters is the main function of threads that are created later (net/sunrpc/svc.c)."""

_WAITS = re.compile(
    r"kthread_(?:should_stop|should_park|freezable_should_stop|parkme)|(?:io_)?schedule(?:_.*)?|wait_woken"
    r"|prepare_to_s?wait(?:_.*)?|wait_for_completion.*|[ms]sleep(?:_.*)?|__refrigerator|svc_recv|down(?:_.*)?"
)
_MOVE = re.compile(rb"[\x48\x49]\xc7[\xc0-\xc7](.{4})", re.DOTALL)  # mov $imm32, %register
_FIRST = b"\x48\xc7\xc7"  # the same to %rdi, the first parameter
_MOVE_BYTES = 7
_R_X86_64_PC32, _R_X86_64_32S = 2, 11
_CALLS = b"\xe8\xe9"  # call and jmp with a relative target
_CALL = {_CALLS[:1], _CALLS[1:]}
_CALL_BYTES = 5
_WINDOW_BYTES = 96  # from the address of the function to the call, with the other parameters in between


@dataclass(frozen=True, slots=True)
class ThreadMain:
    """The main function of a kernel thread; `waits` if it waits in itself, as a thread that never ends does."""

    symbol: Symbol
    waits: bool


def thread_mains(linked: LinkedSymbols, functions: Iterable[Symbol]) -> Iterator[ThreadMain]:
    """Yield those of `functions`, of vmlinux or of one module, that are the main function of a kernel thread."""
    code: _Vmlinux | _Module = _Vmlinux(linked) if linked.is_vmlinux else _Module(linked.elf)
    for symbol in functions:
        if symbol.kind == TYPE_FUNC and code.starts_thread(symbol):
            yield ThreadMain(symbol, any(map(_WAITS.fullmatch, code.called(symbol))))


def _creates(move: bytes, call: str) -> bool:
    """Return whether a call creates a thread of the function whose address the instruction `move` loads before it."""
    return call in SERVICES or (call in CREATORS and move == _FIRST)


class _Vmlinux:
    """Code of the linked kernel: addresses and targets are in the instructions."""

    def __init__(self, linked: LinkedSymbols) -> None:
        self._linked = linked
        self._code = [(one.address, linked.elf.content(one)) for one in linked.elf.sections if one.executable]

    @cached_property
    def _functions(self) -> dict[int, str]:
        return {one.value: one.name for one in self._linked.elf.symbols if one.kind == TYPE_FUNC and one.defined}

    @cached_property
    def _loaded(self) -> frozenset[bytes]:
        """All numbers that an instruction loads into a register."""
        return frozenset(number for _address, code in self._code for number in _MOVE.findall(code))

    def starts_thread(self, symbol: Symbol) -> bool:
        """Return whether the function's address is passed to the creation of a thread."""
        number = struct.pack("<I", symbol.value & 0xFFFFFFFF)
        if number not in self._loaded:
            return False
        return any(
            _creates(code[end - _MOVE_BYTES :][:3], self._next_call(address, code, end))
            for address, code, end in self._loads(number)
        )

    def called(self, symbol: Symbol) -> Iterator[str]:
        """Yield the functions that it calls itself."""
        for address, code in self._code:
            if address <= symbol.value < address + len(code):
                start = symbol.value - address
                yield from self._calls(address, code, start, start + symbol.size)

    def _loads(self, number: bytes) -> Iterator[tuple[int, bytes, int]]:
        """Yield section address, code and offset after each instruction that loads `number`."""
        for address, code in self._code:
            place = code.find(number)
            while place >= 0:
                if _MOVE.match(code, max(0, place - 3)):
                    yield address, code, place - 3 + _MOVE_BYTES
                place = code.find(number, place + 1)

    def _next_call(self, address: int, code: bytes, start: int) -> str:
        return next(self._calls(address, code, start, start + _WINDOW_BYTES), "")

    def _calls(self, address: int, code: bytes, start: int, end: int) -> Iterator[str]:
        """Yield the functions that the code calls: a byte counts as a call if its target is the start of a function."""
        for place in range(start, min(end, len(code) - _CALL_BYTES + 1)):
            if code[place] in _CALLS:
                (offset,) = struct.unpack_from("<i", code, place + 1)
                if name := self._functions.get(address + place + _CALL_BYTES + offset):
                    yield name


class _Module:
    """Code of a module: addresses and targets are relocations."""

    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf

    @cached_property
    def _sections(self) -> list[tuple[Section, bytes, list[Relocation]]]:
        return [
            (one, self._elf.content(one), sorted(self._elf.relocations(one), key=lambda entry: entry.offset))
            for one in self._elf.sections
            if one.executable
        ]

    def starts_thread(self, symbol: Symbol) -> bool:
        """Return whether the function's address is passed to the creation of a thread."""
        place = (symbol.section, symbol.value)
        for _section, code, entries in self._sections:
            for number, entry in enumerate(entries):
                if entry.kind == _R_X86_64_32S and self._target(entry) == place:
                    window = [one for one in entries[number + 1 :] if one.offset - entry.offset <= _WINDOW_BYTES]
                    if _creates(code[entry.offset - 3 : entry.offset], next(self._calls(code, window), "")):
                        return True
        return False

    def called(self, symbol: Symbol) -> Iterator[str]:
        """Yield the functions that it calls itself."""
        for section, code, entries in self._sections:
            if section.number == symbol.section:
                end = symbol.value + symbol.size
                yield from self._calls(code, [one for one in entries if symbol.value <= one.offset < end])

    def _target(self, entry: Relocation) -> tuple[int, int]:
        symbol = self._elf.symbols[entry.symbol]
        return symbol.section, (0 if symbol.kind == TYPE_SECTION else symbol.value) + entry.addend

    def _calls(self, code: bytes, entries: Iterable[Relocation]) -> Iterator[str]:
        for entry in entries:
            if (
                entry.kind in {R_X86_64_PLT32, _R_X86_64_PC32}
                and code[max(0, entry.offset - 1) : entry.offset] in _CALL
            ):
                yield self._elf.symbols[entry.symbol].name or "?"
