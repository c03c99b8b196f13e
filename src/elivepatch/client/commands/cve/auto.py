# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch auto`: close what the policy chooses, from a timer, again and again."""

from __future__ import annotations

from elivepatch.client.cve import auto as automatic
from elivepatch.client.cve.plan import add_planning
from elivepatch.commandline import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "auto", help="close what the policy chooses, from a timer", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--plan-only", action="store_true", help="say what would be closed; build and load nothing")
    parser.add_argument("--now", action="store_true", help="neither wait nor heed the policy's window")
    add_planning(parser, other_kernels=False)
    parser.set_defaults(run=automatic.run, kernel=None, output=None)
