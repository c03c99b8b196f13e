# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch enable`: load a livepatch again that is recorded here but not live."""

from __future__ import annotations

import argparse

from elivepatch.client.livepatch.change import carry_out
from elivepatch.client.livepatch.live_state import Standing, require_settled
from elivepatch.client.livepatch.session import change_document, changing, tell_change
from elivepatch.client.livepatch.state import Entry
from elivepatch.client.options import add_changing
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
    with changing(arguments, output, doing=f"enable {name}") as session:
        standing = session.standing
        wanted = _wanted(standing, name)
        record = standing.record
        if wanted == record.set.entries:
            coming = record.returned_to(record.current, boot_id=standing.boot_id)
        else:
            coming = record.followed_by(
                wanted, boot_id=standing.boot_id, at=session.machine.stamp(), reason=f"enable {name}"
            )
        changed = carry_out(session.tools, standing, coming, action=f"enable {name}")
    output.document(change_document("enable", changed))
    tell_change(changed, output)
    return ExitStatus.OK


def _wanted(standing: Standing, name: str) -> tuple[Entry, ...]:
    entry = standing.record.known.get(name)
    if entry is None:
        raise HostError(
            "no-such-livepatch",
            f"Nothing here is called {name}.",
            advice="`elivepatch list` shows what is recorded; a disabled livepatch of others must be loaded anew.",
        )
    if any(one.name == name for one in standing.live):
        raise HostError("already-live", f"{name} is live already.", advice="Nothing needs to be done.")
    if [one.name for one in standing.missing] == [name] and standing.moving is None:
        return tuple(one for one in standing.record.set.entries if one in standing.live or one.name == name)
    require_settled(standing)
    return (*standing.live, entry)
