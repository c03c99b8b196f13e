# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server restore`: put the state in a backup into a state directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service.backup import restore
from elivepatch.service.commands.options import add_common, settings_of


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("restore", help="restore the server's state from a backup", allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", type=Path, help="a file of `elivepatch-server backup`")
    add_common(parser, run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Restore the backup."""
    settings = settings_of(arguments)
    restore(settings, arguments.file)
    output.document({"state_dir": str(settings.state_dir)})
    output.line(f"{settings.state_dir} is restored. Start the server: it continues the jobs that ran at the backup.")
    return ExitStatus.OK
