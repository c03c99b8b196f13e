# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch disable`: disable a livepatch; its module stays loaded."""

from __future__ import annotations

import argparse

from elivepatch.client.commands.options import add_changing, change_options
from elivepatch.client.commands.output import print_change
from elivepatch.client.livepatch.session import changing
from elivepatch.client.livepatch.unload import take_out
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("disable", help="disable a livepatch", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", help="a livepatch of `elivepatch list`")
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Disable it, watch, record."""
    with changing(
        change_options(arguments, output), output.progress, doing=f"disable {arguments.name}", keep_loaded=True
    ) as session:
        changed = take_out(session, arguments.name, action="disable")
    print_change("disable", changed, output)
    return ExitStatus.OK
