# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch enable`: load a livepatch that is recorded here but not live."""

from __future__ import annotations

import argparse

from elivepatch.client.commands.options import add_changing, change_options
from elivepatch.client.commands.output import print_change
from elivepatch.client.livepatch.change import carry_out
from elivepatch.client.livepatch.live_state import LiveState, require_settled
from elivepatch.client.livepatch.session import changing
from elivepatch.client.livepatch.state import SetEntry
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, HostError
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "enable", help="load a recorded livepatch again", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", help="a livepatch of `elivepatch list`")
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Load it, watch, record."""
    name = arguments.name
    with changing(change_options(arguments, output), output.progress, doing=f"enable {name}") as session:
        live_state = session.live_state
        wanted = _wanted(live_state, name)
        record = live_state.record
        if wanted == record.set.entries:
            coming = record.returned_to(record.current, boot_id=live_state.boot_id)
        else:
            coming = record.followed_by(
                wanted, boot_id=live_state.boot_id, at=session.machine.stamp(), reason=f"enable {name}"
            )
        changed = carry_out(session.tools, live_state, coming, action=f"enable {name}")
    print_change("enable", changed, output)
    return ExitStatus.OK


def _wanted(live_state: LiveState, name: str) -> tuple[SetEntry, ...]:
    entry = live_state.record.known.get(name)
    if entry is None:
        raise HostError(
            "no-such-livepatch",
            f"Nothing here is called {name}.",
            advice="`elivepatch list` shows what is recorded. Load a livepatch of another program with that program.",
        )
    if any(one.name == name for one in live_state.live):
        raise HostError("already-live", f"{name} is live already.", advice="Nothing needs to be done.")
    if [one.name for one in live_state.missing] == [name] and live_state.moving is None:
        return tuple(one for one in live_state.record.set.entries if one in live_state.live or one.name == name)
    require_settled(live_state)
    return (*live_state.live, entry)
