# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch boot`: load the recorded set of this kernel; the units that run at boot and at shutdown use it.

A set that may have crashed the machine is skipped, and `elivepatch status` says so.
"""

from __future__ import annotations

import argparse
from typing import Any

from elivepatch.client.commands.options import add_changing, change_options
from elivepatch.client.commands.output import change_document, show_change
from elivepatch.client.host import machine as machines
from elivepatch.client.livepatch.boot_guard import Phase, judge, note_phase, note_shutdown, why_skipped
from elivepatch.client.livepatch.change import Changed, carry_out
from elivepatch.client.livepatch.live_state import require_settled
from elivepatch.client.livepatch.session import Session, changing
from elivepatch.client.livepatch.store import Store, locked
from elivepatch.client.options import ChangeOptions
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, HostError
from elivepatch.output import Output

_OFF = "elivepatch.off"
"""Word on the kernel's command line that keeps a machine that will not start from loading any livepatch."""


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "boot",
        help="load the recorded livepatches of this kernel (used at boot)",
        description=__doc__,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--mark-clean", action="store_true", help="note that the machine is shut down properly (used at shutdown)"
    )
    what.add_argument("--clear-guard", action="store_true", help="load a set that has been skipped since a crash")
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Load the recorded set, or note the shutdown."""
    options = change_options(arguments, output)
    if arguments.mark_clean:
        _mark_clean(options)
        output.document(_document("mark-clean"))
        return ExitStatus.OK
    if not arguments.clear_guard and _OFF in (machines.this_machine().host.text("proc/cmdline") or "").split():
        output.document(_document("switched-off"))
        output.line(f"Nothing was loaded: the kernel was started with {_OFF}.")
        return ExitStatus.OK
    with changing(options, output.progress, doing="boot") as session:
        live_state = session.live_state
        if not live_state.record.set.entries:
            others = [record.release for record in session.store.other_kernels().records if record.set.entries]
            remark = f"; the record of {', '.join(others)} does not fit this kernel" if others else ""
            output.document(_document("nothing"))
            output.line(f"Nothing is recorded for this kernel{remark}.")
            return ExitStatus.OK
        if not arguments.clear_guard:
            _require_guard(session)
        if not live_state.this_boot or live_state.missing:
            changed = _load(session)
        else:
            changed = Changed(live_state=live_state, transitions=())
    output.document(_document("loaded", changed))
    show_change(changed, output)
    return ExitStatus.OK


def _load(session: Session) -> Changed:
    live_state = session.live_state
    if live_state.moving is not None:
        require_settled(live_state)
    coming = live_state.record.returned_to(live_state.record.current, boot_id=live_state.boot_id)
    return carry_out(session.tools, live_state, coming, action="boot")


def _require_guard(session: Session) -> None:
    """Raise HostError, and note it, if the set must not be loaded automatically."""
    entries = session.live_state.record.set.entries
    why = judge(session.machine.host, session.store, entries, window_s=session.settings.boot_guard_s)
    if not why:
        return
    if not why_skipped(session.store):
        note_phase(session.machine, session.store, entries, Phase.SKIPPED, why=why)
        session.store.append_history(
            {
                "at": session.machine.stamp(),
                "action": f"boot: skipped, {why}",
                "by": "",
                "before": [],
                "after": [],
                "transitions": [],
            }
        )
    raise HostError(
        "boot-skipped",
        f"{', '.join(entry.name for entry in entries)} was not loaded: {why}.",
        advice="Find out what happened, then `elivepatch boot --clear-guard`, or drop it: `elivepatch unload NAME`.",
    )


def _mark_clean(options: ChangeOptions) -> None:
    machine = machines.this_machine()
    with locked(machine, doing="boot --mark-clean", wait_s=options.settings.lock_wait_s):
        note_shutdown(Store.of(machine.host))


def _document(did: str, changed: Changed | None = None) -> dict[str, Any]:
    return {"did": did, "change": change_document("boot", changed) if changed is not None else None}
