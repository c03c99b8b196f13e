# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server doctor`: check if a server can work here, with advice for each missing requirement."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service.commands.options import add_common, settings_of
from elivepatch.service.doctor import look


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("doctor", help="check if a server can work here", allow_abbrev=False)
    add_common(parser, run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Check the requirements; return status 4 if one is missing."""
    checks = look(settings_of(arguments))
    output.document([asdict(check) for check in checks])
    output.table(("", "WHAT", "SEEN"), [("ok" if check.well else "--", check.what, check.seen) for check in checks])
    for check in checks:
        if not check.well:
            output.line(f"{check.what}: {check.advice}")
    return ExitStatus.OK if all(check.well for check in checks) else ExitStatus.SERVICE
