# SPDX-License-Identifier: GPL-2.0-or-later
"""Change of the live set: step by step, watched, recorded, and reversed if a step fails.

Order of events: the coming record is written to the disk; the kernel is changed; only when sysfs says that all of it is
in force does the coming record become the record, by a rename. If this is cut short, `settle` compares record and
kernel and repairs the record.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from elivepatch.client.host.findings import Finding, require
from elivepatch.client.host.identity import loaded_modules
from elivepatch.client.host.machine import Machine
from elivepatch.client.host.modules import VerifiedModule, holding_themselves, insert, is_pinned, open_verified, remove
from elivepatch.client.host.signals import Interruption
from elivepatch.client.host.sysfs import DIRECTORY, Rules, read_livepatch
from elivepatch.client.host.transition import Transition, TransitionLimit, follow, require_done
from elivepatch.client.livepatch.boot_guard import Phase, note_phase
from elivepatch.client.livepatch.live_state import LiveState, read_live_state, settle
from elivepatch.client.livepatch.state import Record, SetEntry
from elivepatch.client.livepatch.store import Store
from elivepatch.model.errors import HostError
from elivepatch.model.progress import Event, Progress
from elivepatch.trust.keys import PublicKey

_NO_LOGIN = "4294967295"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load this livepatch; if it replaces, all others go."""

    entry: SetEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Disable:
    """Take this livepatch out of force."""

    name: str


Step = Load | Disable


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Tools of a change.

    `keep_loaded` names modules that stay loaded after they were disabled; `obstacles` are findings that block loading
    but not unloading.
    """

    machine: Machine
    store: Store
    pinned: Collection[PublicKey]
    limit: TransitionLimit
    progress: Progress
    keep_loaded: Collection[str] = ()
    obstacles: Collection[Finding] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Result of a change. `left` names modules that are out of force but could not be unloaded."""

    live_state: LiveState
    transitions: tuple[Transition, ...]
    left: tuple[str, ...] = field(default=())


def plan(live: Sequence[SetEntry], wanted: Sequence[SetEntry], rules: Rules) -> tuple[Step, ...]:
    """Return the steps from `live` to `wanted`; raises HostError if this kernel allows no such change.

    A livepatch that replaces must be loaded first: it replaces everything before it, in one transition.
    """
    going = [entry for entry in live if entry not in wanted]
    staying = [entry for entry in live if entry in wanted]
    coming = list(wanted[len(staying) :])
    if list(wanted[: len(staying)]) != staying:
        raise HostError(
            "order",
            "These livepatches cannot be put into this order without unloading all of them.",
            advice="Unload them one by one, then load them in the order you want.",
        )
    if coming and coming[0].replace and not staying:
        if any(entry.replace for entry in coming[1:]):
            raise _replaces(coming[0].name)
        return tuple(Load(entry=entry) for entry in coming)
    if any(entry.replace for entry in coming):
        raise _replaces(next(entry.name for entry in coming if entry.replace))
    if rules.only_top and list(live[: len(staying)]) != staying:
        raise HostError(
            "order",
            f"Kernels before 5.1 can disable the newest livepatch only, which is {live[-1].name}.",
            advice=f"Run `elivepatch disable {live[-1].name}` first.",
        )
    return (*(Disable(name=entry.name) for entry in reversed(going)), *(Load(entry=entry) for entry in coming))


def carry_out(tools: Tools, live_state: LiveState, coming: Record, *, action: str) -> Changed:
    """Make the current set of `coming` live, then the record; the caller holds the lock. `action` is for the history.

    Raises HostError or TrustError if a step fails, KeyboardInterrupt if it was interrupted: in both cases the record
    says what is live, and each livepatch is completely in force or completely out of force, unless the error's code
    is `transition-stuck`.
    """
    machine, store = tools.machine, tools.store
    steps = plan(live_state.live, coming.set.entries, Rules.of(coming.release))
    if any(isinstance(step, Load) for step in steps):
        require(tools.obstacles)
    _verify_all(tools, live_state, steps)
    before = store.guard()
    transitions: list[Transition] = []
    left: tuple[str, ...] = ()
    with Interruption() as interruption:
        try:
            store.prepare(coming)
            if any(isinstance(step, Load) for step in steps):
                note_phase(machine, store, coming.set.entries, Phase.LOADING)
            for step in steps:
                transitions.append(_take(tools, step, interruption))
                require_done(transitions[-1])
                if interruption.asked and step is not steps[-1]:
                    raise KeyboardInterrupt("Some of the steps were completed: the record says which.")
        finally:
            now = settle(machine, store)
            if now.moving is None:
                _note_guard(tools, now, coming, before)
            _write_history(tools, live_state, now, transitions, action)
            if now.moving is None:
                left = _clean_up(tools, now, (*live_state.live, *coming.set.entries))
    store.prune(now.record)
    return Changed(live_state=now, transitions=tuple(transitions), left=left)


def take_out_foreign(tools: Tools, live_state: LiveState, name: str, *, unload: bool) -> Changed:
    """Disable a livepatch that is live but not recorded here; the caller holds the lock.

    Raises HostError if it stays in force, KeyboardInterrupt if it was interrupted and stays.
    """
    with Interruption() as interruption:
        transition = _take(tools, Disable(name=name), interruption)
        _write_history(
            tools, live_state, read_live_state(tools.machine, live_state.record), [transition], f"take out {name}"
        )
        require_done(transition)
        left = () if not unload or remove(tools.machine, name) else (name,)
    return Changed(live_state=read_live_state(tools.machine, live_state.record), transitions=(transition,), left=left)


def _take(tools: Tools, step: Step, interruption: Interruption) -> Transition:
    machine = tools.machine
    name = step.entry.name if isinstance(step, Load) else step.name
    enabling = isinstance(step, Load)
    tools.progress(Event(stage="load" if enabling else "disable", message=name))
    # The kernel may end the transition before the system call returns, so the clock starts before it.
    started = machine.clock.monotonic()
    try:
        if isinstance(step, Load):
            _load(tools, step.entry)
        else:
            _disable(machine, name)
    except KeyboardInterrupt:
        interruption.asked = True
        if enabling and read_livepatch(machine.host, name) is None:
            raise
    called_s = machine.clock.monotonic() - started
    try:
        seen = _follow(tools, name, enabling, interruption)
    except KeyboardInterrupt:
        interruption.asked = True
        seen = _follow(tools, name, enabling, interruption)
    return replace(seen, seconds=called_s + seen.seconds)


def _follow(tools: Tools, name: str, enabling: bool, interruption: Interruption) -> Transition:
    return follow(
        tools.machine, name, enabling=enabling, limit=tools.limit, interruption=interruption, progress=tools.progress
    )


def _load(tools: Tools, entry: SetEntry) -> None:
    if not remove(tools.machine, entry.name):
        raise HostError(
            "name-taken",
            f"A module called {entry.name} is loaded already and cannot be unloaded.",
            advice="Run `elivepatch list`, and see with `lsmod` what uses it.",
        )
    with _opened(tools, entry) as module:
        insert(tools.machine, module)


def _opened(tools: Tools, entry: SetEntry) -> AbstractContextManager[VerifiedModule]:
    return open_verified(
        tools.machine.host,
        tools.store.path_of(entry.digest, "ko"),
        tools.store.kept(entry.digest, "proof"),
        tools.pinned,
    )


def _verify_all(tools: Tools, live_state: LiveState, steps: Sequence[Step]) -> None:
    """Verify every module before the first step: a bad one would leave half of the change."""
    for step in steps:
        if isinstance(step, Load):
            _require_not_pinned(tools, live_state, step.entry.name)
            with _opened(tools, step.entry) as module:
                if module.statement.name != step.entry.name:
                    raise HostError(
                        "module-name",
                        f"The module kept for {step.entry.name} is {module.statement.name}.",
                        advice="The record is damaged: build the livepatch again with `elivepatch apply`.",
                    )
            held = holding_themselves(tools.machine.host, [one.name for one in live_state.kernel])
            if step.entry.replace and held:
                raise HostError(
                    "callbacks-live",
                    f"{held[0]} has written pointers into itself, and its replacement would leave them behind.",
                    advice=f"Unload it first: `elivepatch unload {held[0]}`.",
                )
            if step.entry.replace and live_state.foreign:
                raise HostError(
                    "foreign-livepatch",
                    f"{live_state.foreign[0].name} is live and was not loaded by elivepatch; it would be replaced.",
                    advice="Put its source patch into your series and unload it, or use `elivepatch apply --stack`.",
                )


def _require_not_pinned(tools: Tools, live_state: LiveState, name: str) -> None:
    if not is_pinned(tools.machine.host, name):
        return
    live = [entry.name for entry in live_state.live]
    meanwhile = f" To run without livepatches until then: `elivepatch unload {live[-1]}`." if live else ""
    raise HostError(
        "module-pinned",
        f"{name} cannot be loaded again in this boot: it was taken out, and its module stays in memory.",
        advice=f"Reboot, then run the command again.{meanwhile}",
    )


def _disable(machine: Machine, name: str) -> None:
    try:
        machine.kernel.write(machine.host.path(f"{DIRECTORY}/{name}/enabled"), "0")
    except FileNotFoundError:
        return  # it disappeared since we read it: the watcher will find it gone
    except OSError as error:
        raise HostError(
            "disable-refused",
            f"The kernel refuses to disable {name}: {error.strerror}.",
            advice="Another transition may be under way, or a newer livepatch on top of it: see `elivepatch status`.",
        ) from error


def _clean_up(tools: Tools, now: LiveState, involved: Sequence[SetEntry]) -> tuple[str, ...]:
    """Unload the modules of `involved` that are out of force; return the names of those that could not be."""
    loaded = {module.name for module in loaded_modules(tools.machine.host)}
    live = {one.name for one in now.kernel if one.enabled or one.transition}
    names = dict.fromkeys(entry.name for entry in involved)
    out = [name for name in names if name in loaded - live and name not in tools.keep_loaded]
    return tuple(name for name in out if not remove(tools.machine, name))


def _note_guard(tools: Tools, now: LiveState, coming: Record, before: dict[str, Any] | None) -> None:
    if before is None or now.record.set.entries == coming.set.entries:
        note_phase(tools.machine, tools.store, now.record.set.entries, Phase.LOADED)
    else:
        tools.store.write_guard(before)


def _write_history(
    tools: Tools, before: LiveState, now: LiveState, transitions: Sequence[Transition], action: str
) -> None:
    event = {
        "at": tools.machine.stamp(),
        "action": action,
        "by": _who(tools.machine),
        "before": [entry.name for entry in before.live],
        "after": [entry.name for entry in now.live],
        "transitions": [
            {"name": one.name, "ending": str(one.ending), "seconds": round(one.seconds, 3)} for one in transitions
        ],
    }
    try:
        tools.store.append_history(event)
    except HostError as error:
        tools.progress(Event(stage="history", message=error.problem.message))


def _who(machine: Machine) -> str:
    """Return the login user id of this process, empty if no login started it (units at boot)."""
    user = machine.host.text("proc/self/loginuid") or ""
    return "" if user == _NO_LOGIN else user


def _replaces(name: str) -> HostError:
    return HostError(
        "replaces",
        f"{name} replaces every other livepatch, so it cannot be loaded beside them.",
        advice="Use `elivepatch rollback` to return to it, or `elivepatch apply` to build one that carries everything.",
    )
