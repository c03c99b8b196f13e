# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch history`: list the changes of this kernel's livepatches, with time and user."""

from __future__ import annotations

import argparse

from elivepatch.client.commands.options import add_json
from elivepatch.client.host import machine as machines
from elivepatch.client.livepatch.store import Store
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output

_SHOWN = 20
_ACTION_SHOWN = 60


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "history", help="list the changes of this kernel's livepatches", description=__doc__, allow_abbrev=False
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(_arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print the events, the newest last; JSON has all that are kept, the table the last twenty."""
    events = Store.of(machines.this_machine().host).history()
    output.document({"events": events})
    if not events:
        output.line("Nothing was changed on this kernel yet.")
        return ExitStatus.OK
    rows = [
        (
            event.get("at", ""),
            str(event.get("action", ""))[:_ACTION_SHOWN],
            ", ".join(event.get("before", [])) or "-",
            ", ".join(event.get("after", [])) or "-",
            ", ".join(f"{one['ending']} in {one['seconds']:.1f} s" for one in event.get("transitions", [])) or "-",
            event.get("by", ""),
        )
        for event in events[-_SHOWN:]
    ]
    output.table(("AT", "ACTION", "BEFORE", "AFTER", "TRANSITIONS", "BY UID"), rows)
    return ExitStatus.OK
