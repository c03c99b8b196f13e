# SPDX-License-Identifier: GPL-2.0-or-later
"""Live state: compare live and recorded livepatches, and repair the record after a command was cut off."""

from __future__ import annotations

from dataclasses import dataclass

from elivepatch.client.host.identity import read_boot_id
from elivepatch.client.host.machine import Machine
from elivepatch.client.host.sysfs import KernelLivepatch, read_livepatches
from elivepatch.client.livepatch.state import Record, SetEntry
from elivepatch.client.livepatch.store import Store
from elivepatch.model.errors import HostError


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """The kernel's livepatches and the record about them.

    `live` are our livepatches that are in force, in the order of loading.
    """

    record: Record
    boot_id: str
    kernel: tuple[KernelLivepatch, ...]
    live: tuple[SetEntry, ...]

    @property
    def missing(self) -> tuple[SetEntry, ...]:
        """Return the livepatches of the record's current set that the kernel does not have in force."""
        return tuple(entry for entry in self.record.set.entries if entry not in self.live)

    @property
    def foreign(self) -> tuple[KernelLivepatch, ...]:
        """Return the kernel's livepatches that the record does not know."""
        known = self.record.known
        return tuple(one for one in self.kernel if one.name not in known and (one.enabled or one.transition))

    @property
    def moving(self) -> KernelLivepatch | None:
        """Return the livepatch whose transition is under way, None if there is none."""
        return next((one for one in self.kernel if one.transition), None)

    @property
    def this_boot(self) -> bool:
        """Return whether the current set was settled in this boot."""
        return self.record.boot_id == self.boot_id


def read_live_state(machine: Machine, record: Record) -> LiveState:
    """Return a record together with the livepatches that the kernel has now."""
    kernel = read_livepatches(machine.host)
    known = record.known
    # Of two records with one name, the current set's is the one that can be live.
    known.update({entry.name: entry for entry in record.set.entries})
    live = tuple(known[one.name] for one in kernel if one.settled and one.name in known)
    return LiveState(record=record, boot_id=read_boot_id(machine.host), kernel=kernel, live=live)


def settle(machine: Machine, store: Store) -> LiveState:
    """Bring the record in line with the kernel after a change, or after a command that was cut off; return both.

    If a transition is still under way nothing is decided: the prepared record stays for the next command.
    Raises HostError if the record cannot be read or written.
    """
    record, coming = store.record(), store.next_record()
    if coming is None:
        return read_live_state(machine, record)
    before, after = read_live_state(machine, record), read_live_state(machine, coming)
    if after.moving is not None:
        return before
    if after.live == coming.set.entries and coming.boot_id == after.boot_id:
        store.commit()
        return after
    untouched = after.live == record.set.entries or coming.set.entries == record.set.entries
    if untouched or (not after.live and not before.this_boot):
        # Nothing was changed, or nothing of an earlier boot's set was loaded: the old record stands.
        store.forget_next()
        return before
    reason = f"partly: {coming.set.reason}"
    partly = record.followed_by(after.live, boot_id=after.boot_id, at=machine.stamp(), reason=reason)
    store.prepare(partly)
    store.commit()
    return read_live_state(machine, partly)


def require_settled(live_state: LiveState) -> None:
    """Raise HostError if the kernel and the record disagree, or if a transition is under way."""
    if live_state.moving is not None:
        raise HostError(
            "transition-running",
            f"The transition of {live_state.moving.name} is still under way; the kernel does one at a time.",
            advice="Wait for it: `elivepatch status` names the tasks that hold it.",
        )
    missing = ", ".join(entry.name for entry in live_state.missing)
    if missing and not live_state.this_boot:
        raise HostError(
            "not-loaded-yet",
            f"{missing} is recorded for this kernel but was not loaded since the machine was started.",
            advice="Load it with `elivepatch boot`, or drop it from the record with `elivepatch unload NAME`.",
        )
    if missing:
        raise HostError(
            "record-differs",
            f"{missing} is recorded as live, but the kernel does not have it: another program disabled it.",
            advice="Load it with `elivepatch enable NAME`, or drop it from the record with `elivepatch unload NAME`.",
        )
