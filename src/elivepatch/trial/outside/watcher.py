# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at a guest from outside: stop it while it waits, read its memory, let it go on.

At each phase init.sh writes a record and waits for a break on its second serial port. The guest is stopped meanwhile,
so no code of it runs between the first byte that is read and the last. A look that fails is never held against the
livepatch: the report has the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.build.checks.functions import read_functions
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault, Kind, Problem
from elivepatch.model.trial import SeenFunction, SeenOutside
from elivepatch.trial.case import TrialCase, module_name
from elivepatch.trial.guest_protocol import heading
from elivepatch.trial.outside.channel import WAITS_ON, Channel
from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.guest import Guest
from elivepatch.trial.outside.look import (
    Baseline,
    Function,
    Redirection,
    baseline,
    difference,
    redirections,
    still_live,
)
from elivepatch.trial.outside.memory import GuestMemory, Processor, processors
from elivepatch.trial.outside.shipped import ShippedKernel

RECORD = "look."
"""Start of the name of the record with which the guest asks to be looked at; the phase follows."""

PHASES = ("before", "during", "after", "again", "end")
"""Phases of a whole trial; one whose livepatch stays has no `again`, one with an earlier livepatch has `over` too."""

_LIVE = frozenset({"during", "again", "over"})
_PREPARED_S = 30.0
_LAST_RECORD_BYTES = 512
_CALLBACKS = ".kpatch.callbacks."
_LOADED, _UNANSWERED = "started.1", "unanswered"
_WENT_ON = "the guest did not wait until it was looked at"
# The kernel may be in the middle of patching a place of its own, which takes a few milliseconds.
_TRIES, _PAUSE_S = 5, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One case: name of its module, the functions that its file lists, the phases of a whole trial, its parents.

    It `writes` if it has callbacks: a rewrite lets them write pointers of operation tables (patch/rewrite/tables.py).
    """

    livepatch: str
    functions: Sequence[Function]
    phases: Sequence[str] = PHASES
    parents: frozenset[str] = frozenset()
    writes: bool = False


@dataclass(slots=True)
class _Case:
    """The looks at one case so far."""

    before: Baseline | None = None
    phases: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    redirected: dict[Function, Redirection] = field(default_factory=dict)
    restored: dict[Function, bool | None] = field(default_factory=dict)
    self_patched: dict[str, int] = field(default_factory=dict)
    compared_bytes: int = 0


@dataclass(slots=True)
class Watcher:
    """Watcher of one guest. `vmlinux` is the shipped kernel with symbols, None if it is not here.

    `lost` is the reason why a stopped guest could not go on, empty if it could.
    """

    vmlinux: Path | None
    results: Path
    subjects: Mapping[str, Subject]
    lost: str = ""
    _channel: Channel | None = None
    _kernel: ShippedKernel | None = None
    _prepared: threading.Thread | None = None
    _unprepared: str = "the kernel's vmlinux is not here"
    _cases: dict[str, _Case] = field(default_factory=dict)

    def attach(self, channel: Channel) -> None:
        """Take the channel of a guest that is about to start, and read the kernel's file while it boots."""
        self._channel = channel
        if self.vmlinux is not None:
            self._prepared = threading.Thread(target=self._prepare, args=(self.vmlinux,), daemon=True)
            self._prepared.start()

    def _prepare(self, vmlinux: Path) -> None:
        try:
            kernel = ShippedKernel.of(vmlinux)
            kernel.prepare()
        except NotSeen as error:
            self._unprepared = error.reason
        except (EnvironmentFault, OSError) as error:
            self._unprepared = f"the kernel's vmlinux cannot be read ({error})"
        else:
            self._kernel = kernel

    def look(self, scope: str, phase: str) -> bool:
        """Look at the guest, which waits in a phase of the case `scope`; return False if it cannot go on."""
        case = self._cases.setdefault(scope, _Case())
        if self._channel is None or scope not in self.subjects or self.lost:
            return not self.lost
        try:
            self._channel.started()
            self._stopped(self._channel, case, scope, phase)
        except NotSeen as error:
            case.reasons.append(error.reason)
        return not self.lost

    def _stopped(self, channel: Channel, case: _Case, scope: str, phase: str) -> None:
        """Stop the guest and look, again if the kernel may have been in the middle of patching itself."""
        faults: list[str] = []
        for left in reversed(range(_TRIES)):
            channel.qmp.execute("stop")
            try:
                faults = self._seen(channel, case, scope, phase)
            except NotSeen:
                self._resume(channel, answer=True)
                raise
            self._resume(channel, answer=not faults or not left)
            if not faults:
                break
            if left:
                time.sleep(_PAUSE_S)
        case.phases.append(phase)
        self._forget(case, scope)
        owner = case
        if phase == PHASES[0] and (earlier := self._earlier(case)) is not None:
            owner, earlier.before = earlier, None  # it left something that waited for the end of its trial
        owner.faults += [f"{fault} ({_words(phase)})" for fault in faults]

    def _earlier(self, case: _Case) -> _Case | None:
        """Return the case before this one; only one at a time keeps its look before the load, which takes 25 MB."""
        return next((one for one in self._cases.values() if one is not case and one.before is not None), None)

    def _forget(self, case: _Case, scope: str) -> None:
        """Drop what was seen of the parents before the trial loads them again: perhaps to the same place."""
        subject = self.subjects[scope]
        kept_until = "after" if "again" in subject.phases else "during"
        if case.before is not None and kept_until in case.phases:
            for module in [one for one in case.before.modules if one.name in subject.parents]:
                del case.before.modules[module]

    def _resume(self, channel: Channel, *, answer: bool) -> None:
        try:
            if answer:
                channel.qmp.execute("chardev-send-break", id=WAITS_ON)
            channel.qmp.execute("cont")
        except NotSeen as error:
            self.lost = error.reason
            raise

    def _last_record(self) -> bytes:
        with self.results.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LAST_RECORD_BYTES))
            lines = file.read().split(b"\n")
        return lines[-2] if len(lines) > 1 and not lines[-1] else b""

    def _seen(self, channel: Channel, case: _Case, scope: str, phase: str) -> list[str]:
        """Look at the stopped guest and return what is wrong."""
        if heading(self._last_record()) != (scope, RECORD + phase):
            raise NotSeen(_WENT_ON)
        if self._prepared is not None:
            self._prepared.join(_PREPARED_S)
        if self._kernel is None:
            raise NotSeen(self._unprepared)
        guest, subject = Guest(self._kernel, _memory(channel, self._kernel)), self.subjects[scope]
        if phase == PHASES[0]:
            case.before = baseline(guest)
            case.compared_bytes = case.before.size_bytes
            earlier = self._earlier(case)
            left = difference(guest, earlier.before) if earlier is not None and earlier.before is not None else None
            return [f"{one} differs from before the load" for one in left.faults] if left is not None else []
        if case.before is None:
            raise NotSeen("the kernel was not seen before the load")
        found = difference(guest, case.before, subject.livepatch if subject.writes and phase in _LIVE else "")
        if sum(found.explained.values()) > sum(case.self_patched.values()):
            case.self_patched = {str(kind): number for kind, number in sorted(found.explained.items())}
        faults = [f"{one} differs from before the load" for one in found.faults]
        if phase in _LIVE:
            seen = redirections(guest, subject.livepatch, subject.functions, case.before)
            # The functions of an object that is not loaded lead nowhere yet.
            if subject.livepatch not in guest.livepatches and not subject.functions and self._kernel.structures:
                faults.append(f"the kernel lists no livepatch {subject.livepatch}")
            for one in seen:
                case.redirected[one.function] = one
            return faults + [f"{_name(one.function)}: {one.fault}" for one in seen if one.fault]
        return faults + self._gone(guest, case, case.before, subject)

    def _gone(self, guest: Guest, case: _Case, before: Baseline, subject: Subject) -> list[str]:
        faults = []
        for function, one in case.redirected.items():
            entry = before.entry(guest, one.place) if one.place else None
            same = None if entry is None else guest.memory.read(one.place, len(entry)) == entry
            case.restored[function] = case.restored.get(function) if same is None else same
            if same is False:
                faults.append(f"{_name(function)}: its entry is not as before the load")
        if still_live(guest, subject.livepatch):
            faults.append(f"the kernel still lists the livepatch {subject.livepatch}")
        return faults

    def report(self, scope: str) -> SeenOutside:
        """Return what was seen of a case."""
        case, subject = self._cases.get(scope, _Case()), self.subjects[scope]
        missing = [phase for phase in subject.phases if phase not in case.phases]
        why_not = next(iter(case.reasons), "")
        if missing and not why_not:
            why_not = f"the guest did not wait in the phase `{missing[0]}`"
        functions = tuple(
            SeenFunction(
                object=one.function.object,
                name=one.function.name,
                redirected=not one.fault,
                leads_to_new=one.followed,
                restored=case.restored.get(one.function),
            )
            for one in case.redirected.values()
        )
        return SeenOutside(
            seen=not missing, why_not=why_not, phases=tuple(case.phases), functions=functions,
            compared_bytes=case.compared_bytes, self_patched=case.self_patched,
        )  # fmt: skip

    def tampering(self, scope: str) -> Problem | None:
        """Return the problem of a case whose memory was not as it should be, None if nothing was seen against it."""
        faults = self._cases.get(scope, _Case()).faults
        if not faults:
            return None
        return _problem("trial-memory", f"contradicts the trial: {faults[0]}", "\n".join(dict.fromkeys(faults)))

    def evasion(self, scope: str, names: Sequence[str], *, slow: bool) -> Problem | None:
        """Return the problem of a whole trial whose guest did not wait for our looks, None if it did.

        `names` are those of the case's records in order. A guest that waits for our look before the load can do so
        later too; if the records say that it did not, its kernel evades us, unless the machine was too `slow`.
        """
        case = self._cases.get(scope, _Case())
        early = names[: names.index(_LOADED)] if _LOADED in names else names
        able = PHASES[0] in case.phases and _UNANSWERED not in early
        evaded = [phase for phase in self.subjects[scope].phases if phase not in case.phases]
        if slow or not able or not evaded or set(case.reasons) - {_WENT_ON}:
            return None
        return _problem("trial-records", f"could not be looked at in the phase `{evaded[0]}`: the guest did not wait")

    @property
    def fault(self) -> Problem | None:
        """The problem of a boot whose guest was stopped and could not go on; not the livepatch's fault."""
        if not self.lost:
            return None
        return Problem(
            code="trial-monitor",
            kind=Kind.ERROR,
            message=f"The guest was stopped to look at its memory and could not go on: {self.lost}.",
            advice="Try again; if it happens again, try another version of QEMU.",
        )


def _problem(code: str, what: str, excerpt: str = "") -> Problem:
    return Problem(
        code=code,
        kind=Kind.FAILURE,
        message=f"The guest's memory, seen from outside, {what}.",
        advice="Do not use this patch: its code changes the kernel beside what the livepatch core does, or hides it.",
        excerpt=excerpt,
    )


def watch(vmlinux: Path | None, results: Path, cases: Iterable[tuple[str, TrialCase]]) -> Watcher:
    """Return the watcher of a guest that tries `cases`, each with its scope in the records."""
    subjects = {}
    for scope, case in cases:
        module = ElfFile(case.livepatch)
        try:
            functions = read_functions(module)
            writes = any(one.name.startswith(_CALLBACKS) for one in module.sections)
        except EnvironmentFault:
            functions, writes = (), False  # it is no module: the kernel will say so
        phases = [phase for phase in PHASES if phase != "again" or not case.stays]
        subjects[scope] = Subject(
            livepatch=module_name(case.name),
            functions=[Function(*one) for one in functions],
            phases=phases,
            parents=frozenset(map(module_name, case.parents)),
            writes=writes,
        )
    return Watcher(vmlinux, results, subjects)


def _memory(channel: Channel, kernel: ShippedKernel) -> GuestMemory:
    """Return the memory as the first processor sees it; raises NotSeen if another one sees other code."""
    registers = channel.qmp.execute("human-monitor-command", **{"command-line": "info registers -a"})
    views = [_view(channel, kernel, one) for one in processors(registers if isinstance(registers, str) else "")]
    if any(places != views[0][1] for _memory, places in views):
        raise NotSeen("the guest's processors do not run the same code")
    return views[0][0]


def _view(channel: Channel, kernel: ShippedKernel, processor: Processor) -> tuple[GuestMemory, object]:
    """Return the memory as a processor sees it in the kernel, and the places of the kernel's code in the RAM."""
    try:
        return _places(GuestMemory(channel.memory, channel.size_bytes, processor), kernel)
    except NotSeen:
        return _places(GuestMemory(channel.memory, channel.size_bytes, processor.in_kernel), kernel)


def _places(memory: GuestMemory, kernel: ShippedKernel) -> tuple[GuestMemory, object]:
    start, stop = kernel.ranges["text"]
    slide = Guest(kernel, memory).slide
    return memory, (slide, memory.extents(start + slide, stop - start))


def _name(function: Function) -> str:
    return function.name if function.object == "vmlinux" else f"{function.name} of the module {function.object}"


def _words(phase: str) -> str:
    return {
        "before": "after the end of its trial", "during": "while the livepatch was live",
        "after": "after it was disabled",
        "again": "while it was live the second time", "over": "after it replaced an earlier one",
        "end": "at the end of the trial",
    }.get(phase, phase)  # fmt: skip
