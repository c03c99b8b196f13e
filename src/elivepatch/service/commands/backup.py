# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server backup`: write the server's state into one file, also while the server runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service.backup import backup
from elivepatch.service.commands.options import add_common, settings_of


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("backup", help="write the server's state into one file", allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", type=Path, help="the tar archive to create; only its owner can read it")
    add_common(parser, run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Write the backup."""
    size = backup(settings_of(arguments), arguments.file)
    output.document({"file": str(arguments.file), "size_bytes": size})
    output.line(f"{arguments.file}: {size / 2**20:.1f} MiB. It holds keys and patches: keep it safe.")
    return ExitStatus.OK
