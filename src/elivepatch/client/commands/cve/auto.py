# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch auto`: close what the policy chooses, at each run of a timer."""

from __future__ import annotations

import argparse

from elivepatch.client.commands.cve.cve import add_planning, plan_options
from elivepatch.client.cve.auto import run_auto
from elivepatch.client.cve.options import AutoOptions, CloseOptions
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "auto", help="close what the policy chooses, from a timer", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--plan-only", action="store_true", help="print what would be closed; build and load nothing")
    parser.add_argument(
        "--now", action="store_true", help="skip the random delay and ignore the policy's maintenance window"
    )
    add_planning(parser, other_kernels=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Do one run."""
    close = CloseOptions(plan=plan_options(arguments))
    run_auto(AutoOptions(close=close, plan_only=arguments.plan_only, now=arguments.now), output)
    return ExitStatus.OK
