# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch load`: load a livepatch from a file, without a server, verified like one from a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.client.commands.options import add_changing, add_module_files, add_require_trial, change_options
from elivepatch.client.commands.output import print_install
from elivepatch.client.host.findings import require
from elivepatch.client.host.modules import MODULE_LIMIT
from elivepatch.client.livepatch.install import Delivery, install
from elivepatch.client.livepatch.live_state import require_settled
from elivepatch.client.livepatch.session import changing
from elivepatch.client.proof.files import read_bounded, read_files
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.model.series import SourcePatch
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("load", help="load a livepatch from a file", description=__doc__, allow_abbrev=False)
    add_module_files(parser)
    parser.add_argument(
        "--source",
        metavar="PATCH",
        action="append",
        default=[],
        type=Path,
        help="a source patch in it, kept so that later builds can carry it (may be given more than once)",
    )
    parser.add_argument("--dry-run", action="store_true", help="do everything except loading it")
    add_require_trial(parser)
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Read the files, install the livepatch and print the result."""
    module: Path = arguments.module
    files = read_files(module, arguments.proof)
    sources = [SourcePatch(file.name, read_bounded(file, MODULE_LIMIT, "source patch")) for file in arguments.source]
    options = change_options(arguments, output)
    with changing(options, output.progress, doing=f"load {module.name}") as session:
        require(session.tools.obstacles)
        require_settled(session.live_state)
        delivery = Delivery(module=files.module, proof=files.proof, sources=sources)
        report = install(session, delivery, dry_run=arguments.dry_run, reason=f"load {module.name}")
    print_install(report, output)
    return ExitStatus.OK
