# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch unload`: disable a livepatch, unload its module, and do not load it at boot any more."""

from __future__ import annotations

import argparse

from elivepatch.client.commands.options import add_changing, change_options
from elivepatch.client.commands.output import print_change
from elivepatch.client.host.modules import is_permanent
from elivepatch.client.livepatch.session import changing
from elivepatch.client.livepatch.unload import take_out
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, HostError
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "unload", help="disable a livepatch and unload its module", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", help="a livepatch of `elivepatch list`")
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Disable it if it is live, unload its module, record."""
    with changing(change_options(arguments, output), output.progress, doing=f"unload {arguments.name}") as session:
        changed = take_out(session, arguments.name, action="unload")
        stays = is_permanent(session.machine.host, arguments.name)
    print_change("unload", changed, output)
    if arguments.name in changed.left and not stays:
        raise HostError(
            "still-loaded",
            f"{arguments.name} is out of force, but the kernel does not unload its module.",
            advice="After a forced transition, or if loading modules was switched off, only a reboot removes it; "
            "until then it is harmless.",
        )
    return ExitStatus.OK
