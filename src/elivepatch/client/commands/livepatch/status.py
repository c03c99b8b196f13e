# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch status`: show the live livepatches, if the record agrees, and the tasks that hold a transition.

It uses no network and answers at once. Status 0 means that all is in order, 6 that something needs attention.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from elivepatch.client.commands.options import add_json
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import loaded_modules, read_build_id, read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.host.reload import when_loaded
from elivepatch.client.host.sysfs import read_livepatches, supported
from elivepatch.client.host.transition import holders_of
from elivepatch.client.livepatch.boot_guard import why_skipped
from elivepatch.client.livepatch.inventory import counted, described
from elivepatch.client.livepatch.live_state import LiveState, read_live_state
from elivepatch.client.livepatch.state import Record
from elivepatch.client.livepatch.store import Store
from elivepatch.client.options import TRUSTED_FILE
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, HostError, TrustError
from elivepatch.output import Output
from elivepatch.trust.pins import read_pins

_Read = TypeVar("_Read")


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "status", help="show which livepatches are live on this host", description=__doc__, allow_abbrev=False
    )
    add_json(parser)
    parser.set_defaults(run=run)


@dataclass(slots=True, kw_only=True)
class _Seen:
    """Findings so far. `live_state` is None if this user may not read the record; `attention` lists problems."""

    machine: Machine
    store: Store
    live_state: LiveState | None = None
    why_no_record: str = ""
    attention: list[str] = field(default_factory=list)


def run(_arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print the state of this host."""
    machine = machines.this_machine()
    seen = _Seen(machine=machine, store=Store.of(machine.host))
    document = _document(seen)
    output.document(document)
    if not output.as_json:
        _show(document, output)
    return ExitStatus.HOST if seen.attention else ExitStatus.OK


def _document(seen: _Seen) -> dict[str, Any]:
    host = seen.machine.host
    release, build_id = read_release(host), read_build_id(host)
    try:
        record: Record | None = seen.store.record()
    except HostError as error:
        record, seen.why_no_record = None, error.problem.message
        if error.problem.code != "state-unreadable":
            seen.attention.append(error.problem.message)
    livepatches = _livepatches(seen, record)
    return {
        "kernel": {"release": release, "build_id": build_id},
        "livepatching": supported(host),
        "livepatches": livepatches,
        "when_loaded": when_loaded(host) if any(row["not_loaded"] for row in livepatches) else None,
        "transition": _transition(seen),
        "record": _record(seen, record),
        "trust": _trust(seen),
        "attention": seen.attention,
    }


def _livepatches(seen: _Seen, record: Record | None) -> list[dict[str, Any]]:
    release, build_id = read_release(seen.machine.host), seen.store.build_id
    live_state = read_live_state(seen.machine, record or Record.empty(release, build_id, ""))
    seen.live_state = live_state if record is not None else None
    modules = loaded_modules(seen.machine.host)
    return [row for row in described(live_state, modules) if row["state"] != "recorded"]


def _transition(seen: _Seen) -> dict[str, Any] | None:
    moving = next((one for one in read_livepatches(seen.machine.host) if one.transition), None)
    if moving is None:
        return None
    holders = holders_of(seen.machine, moving)
    seen.attention.append(f"the transition of {moving.name} is under way")
    return {
        "name": moving.name,
        "enabling": moving.enabled,
        "holders": [holder.as_dict() | {"explained": str(holder)} for holder in holders],
    }


def _record(seen: _Seen, record: Record | None) -> dict[str, Any]:
    if record is None or seen.live_state is None:
        return {"readable": False, "why": seen.why_no_record}
    live_state = seen.live_state
    missing = [entry.name for entry in live_state.missing]
    skipped = _noted(seen, lambda: why_skipped(seen.store)) or ""
    if missing and skipped:
        seen.attention.append(f"{', '.join(missing)} was not loaded at boot: {skipped}")
    elif missing and not live_state.this_boot:
        seen.attention.append(f"{', '.join(missing)} is recorded but was not loaded since the machine was started")
    elif missing:
        seen.attention.append(f"{', '.join(missing)} is recorded as live, but the kernel does not have it")
    if _noted(seen, seen.store.next_record) is not None:
        seen.attention.append("a command was cut off; the next one that changes livepatches repairs the record")
    others = seen.store.other_kernels()
    for file in others.unreadable:
        seen.attention.append(f"{file} cannot be read: until it can, or is moved away, no old file is removed")
    return {
        "readable": True,
        "set": record.current,
        "settled_at": record.set.settled_at or None,
        "this_boot": live_state.this_boot,
        "agrees": not missing,
        "missing": missing,
        "series": [{"name": patch.name, "digest": patch.digest} for patch in record.set.series],
        "guard": skipped or None,
        "other_kernels": [other.release for other in others.records if other.set.entries],
    }


def _noted(seen: _Seen, read: Callable[[], _Read]) -> _Read | None:
    """Return the content of a file beside the record; a damaged one goes to `attention`, and status still answers."""
    try:
        return read()
    except HostError as error:
        seen.attention.append(f"{error.problem.message} {error.problem.advice}")
        return None


def _trust(seen: _Seen) -> dict[str, Any]:
    try:
        pins = read_pins(seen.machine.host.path(TRUSTED_FILE))
    except TrustError as error:
        seen.attention.append(error.problem.message)
        return {"servers": [], "problem": error.problem.message}
    return {"servers": [pin.url for pin in pins], "problem": None}


def _show(document: dict[str, Any], output: Output) -> None:
    kernel, record = document["kernel"], document["record"]
    output.line(f"kernel      {kernel['release']} (build-id {kernel['build_id'][:12]})")
    if not document["livepatching"]:
        output.line("livepatch   this kernel has no livepatching")
    for row in document["livepatches"]:
        patches = ", ".join(patch["name"] for patch in row["series"])
        by = f": {patches}" if patches else "" if row["recorded"] else " (not loaded by elivepatch)"
        output.line(f"livepatch   {row['name']}, {row['state']}, {counted(len(row['functions']), 'function')}{by}")
        for name in row["not_loaded"]:
            count = counted(sum(function["object"] == name for function in row["functions"]), "function")
            output.line(f"            {name} is not loaded, so not patched ({count}): {document['when_loaded']}")
    if document["livepatching"] and not document["livepatches"]:
        output.line("livepatch   none")
    if document["transition"] is not None:
        for holder in document["transition"]["holders"]:
            output.line(f"waits for   {holder['explained']}")
    if not record["readable"]:
        output.line(f"record      {record['why']}")
    elif record["other_kernels"] and not record["series"]:
        output.line(f"record      nothing for this kernel; there is one for {', '.join(record['other_kernels'])}")
    else:
        output.line(f"record      set {record['set']}, {'agrees' if record['agrees'] else 'does not agree'}")
    output.line(f"trusts      {', '.join(document['trust']['servers']) or 'no server yet'}")
    for text in document["attention"]:
        output.line(f"ATTENTION   {text}")
