# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch rollback`: return to the livepatches that were live before the last change."""

from __future__ import annotations

import argparse

from elivepatch.client.commands.options import add_changing, change_options
from elivepatch.client.commands.output import print_change
from elivepatch.client.livepatch.change import carry_out
from elivepatch.client.livepatch.live_state import require_settled
from elivepatch.client.livepatch.session import changing
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, HostError
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "rollback", help="return to the livepatches before the last change", description=__doc__, allow_abbrev=False
    )
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Make the previous set live; done twice, it goes back twice."""
    with changing(change_options(arguments, output), output.progress, doing="rollback") as session:
        live_state = session.live_state
        require_settled(live_state)
        previous = live_state.record.previous
        if previous is None:
            raise HostError(
                "nothing-before",
                "There is no earlier set to return to: no change is recorded before this one.",
                advice="`elivepatch history` shows what happened; `elivepatch unload NAME` removes a livepatch.",
            )
        coming = live_state.record.returned_to(previous.number, boot_id=live_state.boot_id)
        changed = carry_out(session.tools, live_state, coming, action="rollback")
    print_change("rollback", changed, output)
    return ExitStatus.OK
