# SPDX-License-Identifier: GPL-2.0-or-later
"""Start shared by the commands that change this host: options, settings, checks, lock, recovery after a cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from elivepatch.client.host import machine as machines
from elivepatch.client.host.doctor import examine
from elivepatch.client.host.findings import LOADING_ONLY, Finding, require
from elivepatch.client.host.machine import Machine
from elivepatch.client.host.transition import TransitionLimit
from elivepatch.client.livepatch.change import Tools
from elivepatch.client.livepatch.live_state import LiveState, settle
from elivepatch.client.livepatch.store import Store, locked
from elivepatch.client.options import TRUSTED_FILE, ChangeOptions
from elivepatch.model.progress import Progress
from elivepatch.settings import ClientSettings
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.pins import read_pins


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A host whose lock is held and whose record agrees with the kernel, and the tools to change it."""

    machine: Machine
    store: Store
    settings: ClientSettings
    live_state: LiveState
    findings: tuple[Finding, ...]
    tools: Tools


@contextmanager
def changing(options: ChangeOptions, progress: Progress, *, doing: str, keep_loaded: bool = False) -> Iterator[Session]:
    """Hold the host's lock; raises HostError if no livepatch can be changed here at all.

    Problems that block loading but not unloading go to `Tools.obstacles`. `doing` names this command to others that
    wait for the lock. With `keep_loaded`, modules stay loaded when they are disabled.
    """
    machine = machines.this_machine()
    settings = options.settings
    findings = examine(machine.host)
    require(finding for finding in findings if finding.code not in {"transition-running", *LOADING_ONLY})
    store = Store.of(machine.host)
    with locked(machine, doing=doing, wait_s=settings.lock_wait_s):
        live_state = _settled(machine, store)
        pins = read_pins(machine.host.path(TRUSTED_FILE))
        yield Session(
            machine=machine,
            store=store,
            settings=settings,
            live_state=live_state,
            findings=findings,
            tools=Tools(
                machine=machine,
                store=store,
                pinned=[PublicKey.from_hex(pin.public_key) for pin in pins],
                limit=TransitionLimit(deadline_s=settings.transition_s, force=options.force),
                progress=progress,
                keep_loaded=[entry.name for entry in live_state.live] if keep_loaded else (),
                obstacles=[finding for finding in findings if finding.code in LOADING_ONLY],
            ),
        )


def _settled(machine: Machine, store: Store) -> LiveState:
    """Bring the record in line with the kernel, and note in the history that an earlier command was cut off."""
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
