# SPDX-License-Identifier: GPL-2.0-or-later
"""Watcher of a transition: follow it to its end, name the tasks that hold it, reverse it at the deadline.

The kernel tries again every second and, every 15 seconds, signals the remaining tasks: a signal that no program sees
for user tasks, a wake-up for kernel threads (SIGNALS_TIMEOUT in kernel/livepatch/transition.c). Nothing better can be
done from outside, so the watcher only watches. At its deadline it reverses the transition, which does not wait for
tasks that have not switched.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, replace
from typing import Any

from elivepatch.client.host.machine import Machine
from elivepatch.client.host.signals import Interruption
from elivepatch.client.host.sysfs import DIRECTORY, KernelLivepatch, read_livepatch
from elivepatch.client.host.tasks import Census, Holder, count, look_at, way_out
from elivepatch.model.errors import HostError
from elivepatch.model.progress import Event, Progress

KERNEL_SIGNALS_EVERY_S = 15.0
STALLED_AFTER_S = 5.0
_POLL_S = 0.2
_CENSUS_EVERY_S = 1.0
# Emulated or very busy machines take a second for fifty tasks; other machines need much less than this.
_CENSUS_WITHIN_S = 5.0
_HOLDERS_SHOWN = 10


class TransitionEnd(enum.StrEnum):
    """End of a watched transition."""

    DONE = "done"
    REVERSED = "reversed"  # it took too long, or was interrupted: the kernel is unchanged
    FORCED = "forced"
    TAKEN = "taken"  # another program reversed it
    STUCK = "stuck"  # neither done nor reversed in time: the kernel keeps trying


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A transition, as it was observed.

    `seconds` is the time until its end, `back_seconds` the time that reversing it took. `holders` are the tasks that
    held it when it stalled, empty if it did not; `waiting` is the number of all tasks that held it.
    """

    name: str
    enabling: bool
    ending: TransitionEnd
    seconds: float
    back_seconds: float = 0.0
    interrupted: bool = False
    holders: tuple[Holder, ...] = ()
    waiting: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self) | {"ending": str(self.ending)}

    def explained(self) -> str:
        """Return one line for each task that held it, with its stack."""
        lines = [
            f"{holder}\n    {' < '.join(holder.stack)}" if holder.stack else str(holder) for holder in self.holders
        ]
        if self.waiting > len(self.holders):
            lines.append(f"and {self.waiting - len(self.holders)} more")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionLimit:
    """Limit of a transition: after `deadline_s` it is reversed, or forced with `force`."""

    deadline_s: float = 60.0
    force: bool = False


def follow(
    machine: Machine,
    name: str,
    *,
    enabling: bool,
    limit: TransitionLimit,
    interruption: Interruption,
    progress: Progress,
) -> Transition:
    """Watch the transition of livepatch `name` to its end and return the result; never longer than twice the deadline.

    The ending is also `done` if the livepatch disappears while it is being disabled, or was never in transition.
    """
    seen = _until(machine, name, enabling=enabling, within_s=limit.deadline_s, stop=interruption, progress=progress)
    if seen.ending in {TransitionEnd.DONE, TransitionEnd.TAKEN}:
        return seen
    if limit.force and not interruption.asked:
        return _force(machine, seen, progress)
    why = "interrupted" if interruption.asked else f"not done after {limit.deadline_s:.0f} s"
    progress(Event(stage="transition", message=f"{name}: {why}, reversing it"))
    if not _write(machine, name, "enabled", "0" if enabling else "1"):
        # The kernel refuses to reverse a transition that has just ended: then it is done.
        state = read_livepatch(machine.host, name)
        if (state is None or not state.transition) and _arrived(state, enabling=enabling):
            return replace(seen, ending=TransitionEnd.DONE, interrupted=interruption.asked)
    back = _until(machine, name, enabling=not enabling, within_s=limit.deadline_s, stop=None, progress=progress)
    returned = replace(seen, ending=TransitionEnd.REVERSED, back_seconds=back.seconds, interrupted=interruption.asked)
    if back.ending is TransitionEnd.DONE:
        return returned  # the tasks that had to switch back held nothing
    return replace(
        returned,
        ending=TransitionEnd.STUCK,
        holders=seen.holders or back.holders,
        waiting=seen.waiting or back.waiting,
    )


def require_done(transition: Transition) -> None:
    """Raise HostError if the transition did not reach its goal."""
    if transition.ending in {TransitionEnd.DONE, TransitionEnd.FORCED}:
        return
    name, waited = transition.name, f"{transition.seconds:.0f} s"
    tasks = f"{transition.waiting} task{'' if transition.waiting == 1 else 's'}" if transition.waiting else "something"
    doing = "enabled" if transition.enabling else "disabled"
    if transition.ending is TransitionEnd.TAKEN:
        raise HostError(
            "transition-taken",
            f"{name} was being {doing} when another program reversed it.",
            advice="Another program changes livepatches here (kpatch, a vendor's service): use only one.",
        )
    if transition.ending is TransitionEnd.STUCK:
        raise HostError(
            "transition-stuck",
            f"{name} was neither {doing} nor reversed within {waited}: its transition is still under way.",
            advice=f"The kernel keeps trying; `elivepatch status` names the tasks. {way_out(transition.holders)}",
            excerpt=transition.explained(),
        )
    if transition.interrupted:
        raise KeyboardInterrupt(f"{name} was not {doing}: the kernel is unchanged.")
    raise HostError(
        "transition-stalled",
        f"{name} was not {doing} within {waited}: {tasks} held it, so it was reversed.",
        advice=way_out(transition.holders),
        excerpt=transition.explained(),
    )


def holders_of(machine: Machine, livepatch: KernelLivepatch) -> tuple[Holder, ...]:
    """Return the tasks that hold the transition of `livepatch` now, bounded in number and in time."""
    census = count(machine.host, machine.clock, target=livepatch.enabled, within_s=_CENSUS_WITHIN_S)
    return _holders(machine, livepatch, census)


def _until(
    machine: Machine, name: str, *, enabling: bool, within_s: float, stop: Interruption | None, progress: Progress
) -> Transition:
    clock, started = machine.clock, machine.clock.monotonic()
    next_census, stall_shown = started, False
    holders: tuple[Holder, ...] = ()
    waiting = 0
    ending = TransitionEnd.STUCK
    while True:
        state = read_livepatch(machine.host, name)
        passed = clock.monotonic() - started
        if state is None or not state.transition:
            ending = TransitionEnd.DONE if _arrived(state, enabling=enabling) else TransitionEnd.TAKEN
            break
        if passed >= within_s or (stop is not None and stop.asked):
            break
        if clock.monotonic() >= next_census:
            census = count(machine.host, clock, target=enabling, within_s=_CENSUS_WITHIN_S)
            # Time may run out before the waiting task is reached: the earlier count still holds.
            waiting = len(census.waiting) if census.complete or census.waiting else waiting
            took = clock.monotonic() - started - passed
            next_census = clock.monotonic() + max(_CENSUS_EVERY_S, took)
            _show(progress, name, census, passed)
            if passed >= STALLED_AFTER_S:
                holders = _holders(machine, state, census) or holders
                if holders and not stall_shown:
                    stall_shown = True
                    progress(Event(stage="stalled", message=f"{name} waits for {holders[0]}"))
        clock.sleep(_POLL_S)
    if ending is TransitionEnd.STUCK and state is not None and not holders:
        holders = holders_of(machine, state)
        waiting = max(waiting, len(holders))
    return Transition(
        name=name,
        enabling=enabling,
        ending=ending,
        seconds=clock.monotonic() - started,
        holders=holders,
        waiting=waiting,
        interrupted=stop is not None and stop.asked,
    )


def _arrived(state: KernelLivepatch | None, *, enabling: bool) -> bool:
    return (state is not None and state.settled) if enabling else (state is None or not state.enabled)


def _show(progress: Progress, name: str, census: Census, passed: float) -> None:
    moved = census.tasks - len(census.waiting)
    message = f"{name}: {moved} of {census.tasks} tasks {'' if census.complete else 'checked '}switched"
    if passed >= STALLED_AFTER_S and census.waiting:
        signals_in = KERNEL_SIGNALS_EVERY_S - passed % KERNEL_SIGNALS_EVERY_S
        message += f"; the kernel signals the others in about {signals_in:.0f} s"
    fraction = moved / census.tasks if census.tasks and census.complete else None
    progress(Event(stage="transition", message=message, fraction=fraction))


def _holders(machine: Machine, livepatch: KernelLivepatch, census: Census) -> tuple[Holder, ...]:
    functions = frozenset(function.name for function in livepatch.functions)
    inside = "" if livepatch.enabled else livepatch.name
    found = (look_at(machine.host, pid, thread, functions, inside=inside) for pid, thread in census.waiting[:200])
    # Those whose stack explains the wait come first.
    return tuple(sorted((one for one in found if one), key=lambda one: not one.function)[:_HOLDERS_SHOWN])


def _force(machine: Machine, seen: Transition, progress: Progress) -> Transition:
    progress(
        Event(
            stage="force",
            message=f"{seen.name}: forced, as requested; consistency is no longer guaranteed and modules stay loaded",
        )
    )
    _write(machine, seen.name, "force", "1")
    after = _until(machine, seen.name, enabling=seen.enabling, within_s=10.0, stop=None, progress=progress)
    ending = TransitionEnd.FORCED if after.ending is TransitionEnd.DONE else TransitionEnd.STUCK
    return replace(seen, ending=ending, seconds=seen.seconds + after.seconds)


def _write(machine: Machine, name: str, attribute: str, value: str) -> bool:
    try:
        machine.kernel.write(machine.host.path(f"{DIRECTORY}/{name}/{attribute}"), value)
    except OSError:
        return False
    return True
