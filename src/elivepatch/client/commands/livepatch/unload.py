# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch unload`: take a livepatch out of force, unload its module, drop it from what is loaded at boot."""

from __future__ import annotations

import argparse

from elivepatch.client.commands.options import add_changing, change_options
from elivepatch.client.commands.output import print_change
from elivepatch.client.livepatch.session import changing
from elivepatch.client.livepatch.unload import take_out
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, HostError
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "unload", help="take a livepatch out and unload its module", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", help="a livepatch of `elivepatch list`")
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Disable it where it is live, unload its module, record."""
    with changing(change_options(arguments, output), output.progress, doing=f"unload {arguments.name}") as session:
        changed = take_out(session, arguments.name, action="unload")
    print_change("unload", changed, output)
    if arguments.name in changed.left:
        raise HostError(
            "still-loaded",
            f"{arguments.name} is out of force, but the kernel does not let its module go.",
            advice="After a forced transition, or where loading modules was switched off, only a reboot takes it away; "
            "until then it is harmless.",
        )
    return ExitStatus.OK
