# SPDX-License-Identifier: GPL-2.0-or-later
"""Disabling and unloading a livepatch, whether elivepatch or another program loaded it."""

from __future__ import annotations

from elivepatch.client.host.identity import loaded_modules
from elivepatch.client.host.modules import remove
from elivepatch.client.livepatch.change import Changed, carry_out, take_out_foreign
from elivepatch.client.livepatch.live_state import read_live_state, require_settled
from elivepatch.client.livepatch.session import Session
from elivepatch.model.errors import HostError


def take_out(session: Session, name: str, *, action: str) -> Changed:
    """Disable `name` and drop it from the record; `action` is `disable` or `unload`.

    Raises HostError if no livepatch has that name, or if it is neither in force nor loaded.
    """
    live_state, record = session.live_state, session.live_state.record
    if any(entry.name == name for entry in live_state.missing) and live_state.moving is None:
        return _drop(session, name, action)
    if any(one.name == name and one.settled for one in live_state.foreign):
        return take_out_foreign(session.tools, live_state, name, unload=action == "unload")
    if any(entry.name == name for entry in live_state.live):
        require_settled(live_state)
        coming = record.followed_by(
            [entry for entry in live_state.live if entry.name != name],
            boot_id=live_state.boot_id,
            at=session.machine.stamp(),
            reason=f"{action} {name}",
        )
        return carry_out(session.tools, live_state, coming, action=f"{action} {name}")
    if action == "unload" and _is_leftover(session, name):
        left = () if remove(session.machine, name) else (name,)
        return Changed(live_state=live_state, transitions=(), left=left)
    if name in record.known:
        raise HostError(
            "not-live",
            f"{name} is not live: it is only kept for a rollback.",
            advice="Nothing needs to be done; `elivepatch list` shows what is live.",
        )
    raise HostError(
        "no-such-livepatch",
        f"No livepatch that is live or recorded here is called {name}.",
        advice="`elivepatch list` shows them.",
    )


def _drop(session: Session, name: str, action: str) -> Changed:
    """Drop a livepatch that the kernel does not have from the record; the kernel is not changed."""
    record = session.live_state.record
    coming = record.followed_by(
        [entry for entry in record.set.entries if entry.name != name],
        boot_id=record.boot_id,
        at=session.machine.stamp(),
        reason=f"{action} {name}",
    )
    session.store.prepare(coming)
    session.store.commit()
    left = () if remove(session.machine, name) else (name,)
    return Changed(live_state=read_live_state(session.machine, coming), transitions=(), left=left)


def _is_leftover(session: Session, name: str) -> bool:
    """Return whether `name` is the module of a livepatch that stayed loaded after it was disabled."""
    loaded = any(module.name == name for module in loaded_modules(session.machine.host))
    return loaded and (name in session.live_state.record.known or "K" in _taints(session, name))


def _taints(session: Session, name: str) -> str:
    return next((module.taints for module in loaded_modules(session.machine.host) if module.name == name), "")
