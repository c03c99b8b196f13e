# SPDX-License-Identifier: GPL-2.0-or-later
"""One look at a stopped guest: what differs from the look before the load, and where replaced functions lead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from elivepatch.model.kernel import VMLINUX
from elivepatch.trial.outside.entry import EntryCode
from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.guest import Guest, LiveFunction, Module
from elivepatch.trial.outside.sites import CALL_BYTES, Changes, Sites, called, compare

_FAULTS_LIMIT = 4


class Function(NamedTuple):
    """A function that a livepatch replaces; `sympos` counts from 1, 0 for a unique name."""

    object: str
    name: str
    sympos: int


class Redirection(NamedTuple):
    """One replaced function while the livepatch is live; `place` is the address of the call at its entry.

    `followed`: the call leads to the new function in the livepatch's module; None if the kernel's structures are not
    known, then it leads to the livepatch core. `fault` says what is wrong, empty if nothing is.
    """

    function: Function
    place: int
    followed: bool | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The look before the load: the kernel's ranges, and the code and constants of each module."""

    ranges: dict[str, bytes]
    modules: dict[Module, tuple[bytes, bytes, Sites]]
    slide: int

    @property
    def size_bytes(self) -> int:
        """The bytes that later looks are compared with."""
        parts = (len(text) + len(constants) for text, constants, _sites in self.modules.values())
        return sum(map(len, self.ranges.values())) + sum(parts)

    def entry(self, guest: Guest, place: int) -> bytes | None:
        """Return the bytes of a call at the address `place` as they were, None if nothing of there was seen."""
        start, _stop = guest.kernel.ranges["text"]
        at = place - self.slide - start
        if 0 <= at < len(self.ranges["text"]):
            return self.ranges["text"][at : at + CALL_BYTES]
        for one, (text, _constants, _sites) in self.modules.items():
            if one.contains(place) and one in guest.modules:
                return text[place - one.text[0] : place - one.text[0] + CALL_BYTES]
        return None


@dataclass(slots=True)
class Difference:
    """Result of comparing a look with the baseline: self-patched places by kind, and what nothing explains."""

    explained: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def baseline(guest: Guest) -> Baseline:
    """Read the kernel before the load."""
    return Baseline(
        ranges={name: guest.range(name) for name in guest.kernel.ranges},
        modules={one: (*guest.code_of(one), guest.sites_of(one)) for one in guest.modules},
        slide=guest.slide,
    )


def difference(guest: Guest, before: Baseline, writer: str = "") -> Difference:
    """Compare the kernel, and each module that is still at its place, with the look before the load.

    `writer` is a live livepatch whose callbacks may write pointers of operation tables: to code of its own, or null.
    """
    if guest.slide != before.slide:
        raise NotSeen("the kernel in the guest is at another address than before")
    found, entry = Difference(), EntryCode(guest)
    own = next((one for one in guest.modules if one.name == writer), None)
    constant = replace(entry.targets(), is_entry=None if own is None else lambda at: at == 0 or own.contains(at))
    for name, (start, _stop) in guest.kernel.ranges.items():
        sites, targets = (guest.kernel.sites, entry.targets(guest.slide)) if name == "text" else (Sites(), constant)
        changes = compare(before.ranges[name], guest.range(name), start, sites, targets)
        found.explained += changes.explained
        what = "code" if name == "text" else "constants"
        found.faults += [f"{guest.kernel.name_at(at)} in the kernel's {what}" for at in changes.unexplained]
    for one in guest.modules:
        if one in before.modules:
            text, constants, sites = before.modules[one]
            now_text, now_constants = guest.code_of(one)
            changed = compare(text, now_text, one.text[0], sites, entry.targets())
            still = compare(constants, now_constants, one.rodata[0], Sites(), constant)
            found.explained += changed.explained
            found.faults += _places(one, changed, still)
    del found.faults[_FAULTS_LIMIT:]
    return found


def _places(one: Module, code: Changes, constants: Changes) -> Iterator[str]:
    yield from (f"byte {at - one.text[0]:#x} in the code of the module {one.name}" for at in code.unexplained)
    yield from (f"byte {at - one.rodata[0]:#x} in the constants of the module {one.name}"
                for at in constants.unexplained)  # fmt: skip


def redirections(
    guest: Guest, livepatch: str, functions: Sequence[Function], before: Baseline
) -> tuple[Redirection, ...]:
    """Return where each replaced function of an object that is loaded leads.

    `functions` are those of the livepatch's file; if it does not list them, they are those that the kernel lists.
    """
    listed = {
        Function(one.object, one.name, one.sympos): one for one in guest.livepatches.get(livepatch, ()) if not one.nop
    }
    loaded = {VMLINUX} | {one.name for one in guest.modules}
    wanted = [one for one in functions or listed if one.object in loaded]
    more = [one for one in listed if functions and one not in functions]
    return (
        *(_redirection(guest, livepatch, one, listed.get(one), before) for one in wanted),
        *(Redirection(one, 0, False, "the livepatch's file does not list it, but the kernel does") for one in more),
    )


def _redirection(
    guest: Guest, livepatch: str, function: Function, live: LiveFunction | None, before: Baseline
) -> Redirection:
    address = _address(guest, function, live)
    if address is None:
        return Redirection(function, 0, False, "the kernel lists no livepatch that replaces it")
    slide = guest.slide if function.object == VMLINUX else 0
    entry = _sites(guest, function.object, before).entry_of(address - slide)
    if entry is None:
        return Redirection(function, 0, False, "ftrace has no place at its entry")
    place, code = entry + slide, EntryCode(guest)
    target = called(guest.memory.read(place, CALL_BYTES), place)
    if target is None:
        return Redirection(function, place, False, "its entry is no call")
    operation = code.trampoline(target)
    if operation is None and target not in code.common:
        return Redirection(function, place, False, f"the call at its entry goes to {target:#x}, which is not ftrace")
    reached = code.inner_call(target) in code.handlers if operation is None else code.calls_core(operation)
    if not reached:
        return Redirection(function, place, False, "ftrace does not lead from its entry to the livepatch core")
    if not guest.kernel.structures:
        return Redirection(function, place, None)
    fault = _fault_behind(guest, livepatch, address, live, operation.address if operation is not None else None)
    return Redirection(function, place, not fault, fault)


def _fault_behind(guest: Guest, livepatch: str, address: int, live: LiveFunction | None, operation: int | None) -> str:
    """Return why the livepatch core does not lead to the new function, empty if it does.

    `operation` is that of the trampoline at the entry, None if the entry is the one that all operations share.
    """
    if live is None:
        return "the kernel lists no livepatch that replaces it"
    if live.old != address:
        return "the livepatch replaces another address"
    module = next((one for one in guest.modules if one.name == livepatch), None)
    if module is None or not module.contains(live.new):
        return "its new function is not in the livepatch's module"
    ops = next((one for one in guest.operations if one.stack and one.stack[0] == live.address), None)
    if ops is None:
        return "no operation of the livepatch core leads to its new function"
    if ops.func != guest.handler or ops.fops not in guest.active:
        return "the operation for it is not registered with ftrace"
    if operation is not None and operation != ops.fops:
        return "the call at its entry leads to another operation"
    return ""


def _address(guest: Guest, function: Function, live: LiveFunction | None) -> int | None:
    """Return the address of the old function, in the kernel from vmlinux, in a module as the kernel resolved it."""
    if function.object != VMLINUX:
        module = next(one for one in guest.modules if one.name == function.object)
        return live.old if live is not None and module.contains(live.old) else None
    same = guest.kernel.named.get(function.name, ())
    place = max(function.sympos, 1) - 1
    if place >= len(same):
        raise NotSeen(f"the kernel's vmlinux has no function {function.name}")
    return same[place].value + guest.slide


def _sites(guest: Guest, owner: str, before: Baseline) -> Sites:
    if owner == VMLINUX:
        return guest.kernel.sites
    module = next(one for one in guest.modules if one.name == owner)
    return before.modules[module][2] if module in before.modules else guest.sites_of(module)


def still_live(guest: Guest, livepatch: str) -> bool:
    """Return whether the kernel still lists the livepatch, or an operation of one that leads into its module."""
    if livepatch in guest.livepatches:
        return True
    module = next((one for one in guest.modules if one.name == livepatch), None)
    places = [at for ops in guest.operations for at in ops.stack]
    return module is not None and any(module.contains(guest.new_function(at)) for at in places)
