# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry code of ftrace: the kernel's own, and the copies of it (trampolines) that serve one operation each.

A trampoline is a copy of ftrace_caller or ftrace_regs_caller in which a load and a call differ: the load of the
operation's address from behind the copy, and the call of the operation's function (create_trampoline of
arch/x86/kernel/ftrace.c). The copy is compared with what the guest's kernel has, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.guest import Guest
from elivepatch.trial.outside.sites import CALL_BYTES, Targets, called

_VARIANTS = ("ftrace_caller", "ftrace_regs_caller")
_CODE_LIMIT_BYTES = 2048
_LOAD_BYTES = 7  # mov rdx, [rip + disp32]
_BEHIND_LIMIT_BYTES = 256
_SHORT_JUMP_BYTES = 2
# Functions that the calls inside the kernel's own entry code may go to, beside those of registered operations.
_ASSISTANT = "ftrace_ops_assist_func"
_COMMON = ("ftrace_stub", "arch_ftrace_ops_list_func", "ftrace_ops_list_func", _ASSISTANT)


class Operation(NamedTuple):
    """An operation of ftrace behind a trampoline: its address (struct ftrace_ops), and what the trampoline calls."""

    address: int
    function: int


class _Variant(NamedTuple):
    start: int
    code: bytes
    call: int
    changed: tuple[tuple[int, int], ...]
    load: int


@dataclass(frozen=True)
class EntryCode:
    """The entry code of ftrace in a guest."""

    guest: Guest

    @cached_property
    def common(self) -> frozenset[int]:
        """Addresses of the kernel's own entry code."""
        return frozenset(one.start for one in self._variants)

    @cached_property
    def handlers(self) -> frozenset[int]:
        """Addresses of the functions that the kernel's own entry code may call."""
        kernel, slide = self.guest.kernel, self.guest.slide
        known = {at + slide for name in _COMMON if (at := kernel.find(name)) is not None}
        registered = {function for function in self.guest.active.values() if self._in_kernel(function)}
        if not self.guest.kernel.structures:  # then the registered ones are not known
            registered = {self.guest.handler}
        return frozenset(known | registered)

    def is_code(self, address: int) -> bool:
        """Return whether an address is in the code of the kernel or of a module."""
        return self._in_kernel(address) or any(one.contains(address) for one in self.guest.modules)

    def _in_kernel(self, address: int) -> bool:
        start, stop = self.guest.kernel.ranges["text"]
        return start <= address - self.guest.slide < stop

    def targets(self, moved: int = 0) -> Targets:
        """Return what self-patched code may lead to, for code whose addresses are `moved` less than the guest's."""
        return Targets(
            is_ftrace=lambda at: self._is_entry(at + moved),
            is_handler=lambda at: at + moved in self.handlers,
            is_code=lambda at: self.is_code(at + moved),
        )

    def _is_entry(self, address: int) -> bool:
        """Return whether ftrace's code is at an address, and calls the kernel: no module has operations of its own."""
        if address in self.common:
            return True
        operation = self.trampoline(address)
        return operation is not None and self._in_kernel(operation.function)

    def calls_core(self, operation: Operation) -> bool:
        """Return whether a trampoline leads to the livepatch core.

        In 5.10, a livepatch's operation does not say that it is safe against recursion, so that the trampoline calls
        a function of ftrace that watches for it and then calls the operation's own (ftrace_ops_get_func).
        """
        guest, assistant = self.guest, self.guest.kernel.find(_ASSISTANT)
        if operation.function == guest.handler:
            return True
        assisted = assistant is not None and operation.function == assistant + guest.slide
        return assisted and guest.active.get(operation.address) == guest.handler

    def inner_call(self, start: int) -> int | None:
        """Return what the kernel's own entry code at `start` calls."""
        found = next(one for one in self._variants if one.start == start)
        return called(found.code[found.call : found.call + CALL_BYTES], start + found.call)

    def trampoline(self, address: int) -> Operation | None:
        """Return the operation of the trampoline at an address, None if no trampoline is there."""
        return next(filter(None, (self._copy(address, one) for one in self._variants)), None)

    def _copy(self, address: int, original: _Variant) -> Operation | None:
        try:
            code = self.guest.memory.read(address, len(original.code))
        except NotSeen:
            return None
        left = bytearray(code)
        for start, size in original.changed:
            left[start : start + size] = original.code[start : start + size]
        behind = original.load + _LOAD_BYTES + int.from_bytes(code[original.load + 3 : original.load + 7], "little")
        target = called(code[original.call : original.call + CALL_BYTES], address + original.call)
        if left != original.code or target is None or not 0 <= behind - len(code) < _BEHIND_LIMIT_BYTES:
            return None
        return Operation(self.guest.memory.word(address + behind), target)

    @cached_property
    def _variants(self) -> tuple[_Variant, ...]:
        return tuple(self._read_variants())

    def _read_variants(self) -> Iterator[_Variant]:
        kernel, slide = self.guest.kernel, self.guest.slide
        for name in _VARIANTS:
            start = kernel.address(name)
            size = kernel.address(f"{name}_end") - start
            call = kernel.address(name.replace("_caller", "_call")) - start
            load = kernel.address(f"{name}_op_ptr") - start
            if not 0 < max(call + CALL_BYTES, load + _LOAD_BYTES) <= size <= _CODE_LIMIT_BYTES:
                raise NotSeen("ftrace's entry code has an unknown form")
            changed = [(call + 1, CALL_BYTES - 1), (load + 3, 4)]
            jump = kernel.find(f"{name}_jmp")
            if jump is not None and 0 <= jump - start < size:
                changed.append((jump - start, _SHORT_JUMP_BYTES))
            code = self.guest.memory.read(start + slide, size)
            yield _Variant(start + slide, code, call, tuple(changed), load)
