# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking a livepatch out, whoever put it in and however far it got."""

from __future__ import annotations

from elivepatch.client.host.identity import loaded_modules
from elivepatch.client.host.modules import remove
from elivepatch.client.livepatch.change import Changed, carry_out, take_out_foreign
from elivepatch.client.livepatch.live_state import read_live_state, require_settled
from elivepatch.client.livepatch.session import Session
from elivepatch.model.errors import HostError


def take_out(session: Session, name: str, *, action: str) -> Changed:
    """Take `name` out of force and out of the record; `action` is `disable` or `unload`.

    Raises HostError where there is nothing of that name, or it is not in force and nothing of it is loaded.
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
            f"{name} is not live: it is only kept to go back to.",
            advice="Nothing needs to be done; `elivepatch list` shows what is live.",
        )
    raise HostError(
        "no-such-livepatch",
        f"Nothing that is live or recorded here is called {name}.",
        advice="`elivepatch list` shows what is.",
    )


def _drop(session: Session, name: str, action: str) -> Changed:
    """Drop what the kernel does not have from the record; the kernel is not touched."""
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
    """Whether `name` is a livepatch's module that stayed loaded after it was disabled."""
    loaded = any(module.name == name for module in loaded_modules(session.machine.host))
    return loaded and (name in session.live_state.record.known or "K" in _taints(session, name))


def _taints(session: Session, name: str) -> str:
    return next((module.taints for module in loaded_modules(session.machine.host) if module.name == name), "")
