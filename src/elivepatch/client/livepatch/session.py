# SPDX-License-Identifier: GPL-2.0-or-later
"""What every command begins with that works on this host: its options, its settings, the lock, the truth."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from elivepatch.client.host import machine as machines
from elivepatch.client.host.doctor import examine
from elivepatch.client.host.findings import LOADING_ONLY, Finding, require
from elivepatch.client.host.machine import Machine
from elivepatch.client.host.transition import Watch
from elivepatch.client.livepatch.change import Changed, Tools
from elivepatch.client.livepatch.live_state import LiveState, settle
from elivepatch.client.livepatch.store import Store, locked
from elivepatch.client.options import TRUSTED_FILE, host_settings
from elivepatch.output import Output
from elivepatch.settings import ClientSettings
from elivepatch.trust.pins import read_pins


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A host whose lock is held, whose record was brought in line with the kernel, and the tools to change it."""

    machine: Machine
    store: Store
    settings: ClientSettings
    live_state: LiveState
    findings: tuple[Finding, ...]
    tools: Tools


@contextmanager
def changing(
    arguments: argparse.Namespace, output: Output, *, doing: str, keep_loaded: bool = False
) -> Iterator[Session]:
    """Hold the host's lock; raises HostError where no livepatch could be changed here at all.

    What only keeps new ones from being loaded is in `Tools.obstacles`: taking one out must work still.
    `doing` is what other commands are told while they wait. With `keep_loaded`, modules stay loaded when they are
    disabled.
    """
    machine = machines.this_machine()
    settings = host_settings(arguments, machine.host)
    findings = examine(machine.host)
    require(finding for finding in findings if finding.code not in {"transition-running", *LOADING_ONLY})
    if getattr(arguments, "force", False):
        output.note("warning: --force gives up the kernel's consistency: a task may run old and new code mixed.")
    store = Store.of(machine.host)
    with locked(machine, doing=doing, wait_s=settings.lock_wait_s):
        live_state = _settled(machine, store)
        yield Session(
            machine=machine,
            store=store,
            settings=settings,
            live_state=live_state,
            findings=findings,
            tools=replace(
                _tools(machine, store, settings, arguments, output, live_state if keep_loaded else None),
                obstacles=[finding for finding in findings if finding.code in LOADING_ONLY],
            ),
        )


def _settled(machine: Machine, store: Store) -> LiveState:
    """Bring the record in line with the kernel, and note it where a command before this one was cut off."""
    cut_off = store.next_record()
    live_state = settle(machine, store)
    if cut_off is not None and store.next_record() is None:
        live = [entry.name for entry in live_state.live]
        store.append_history(
            {
                "at": machine.stamp(),
                "action": f"found cut off: {cut_off.set.reason}",
                "by": "",
                "before": [],
                "after": live,
                "transitions": [],
            }
        )
    return live_state


def change_document(action: str, changed: Changed) -> dict[str, Any]:
    """Return what a command did, for machines (schemas/change.json)."""
    record = changed.live_state.record
    return {
        "action": action,
        "live": [entry.name for entry in changed.live_state.live],
        "set": record.current,
        "series": [{"name": patch.name, "digest": patch.digest} for patch in record.set.series],
        "transitions": [transition.as_dict() for transition in changed.transitions],
        "left_loaded": list(changed.left),
    }


def tell_change(changed: Changed, output: Output) -> None:
    """Tell people what is live now."""
    for transition in changed.transitions:
        way = "in force" if transition.enabling else "out of force"
        output.line(f"{transition.name} is {way} after {transition.seconds:.1f} s")
    for name in changed.left:
        output.line(f"{name} is out of force but its module stays loaded, harmless, until a reboot")
    live = ", ".join(entry.name for entry in changed.live_state.live) or "nothing"
    output.line(f"live now: {live}")


def _tools(
    machine: Machine,
    store: Store,
    settings: ClientSettings,
    arguments: argparse.Namespace,
    output: Output,
    keep: LiveState | None,
) -> Tools:
    from elivepatch.trust.keys import PublicKey

    pins = read_pins(machine.host.path(TRUSTED_FILE))
    return Tools(
        machine=machine,
        store=store,
        pinned=[PublicKey.from_hex(pin.public_key) for pin in pins],
        watch=Watch(deadline_s=settings.transition_s, force=bool(getattr(arguments, "force", False))),
        progress=output.progress,
        keep_loaded=[entry.name for entry in keep.live] if keep is not None else (),
    )
