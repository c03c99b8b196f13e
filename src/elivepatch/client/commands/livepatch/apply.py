# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch apply`: build source patches together with everything live, and load the livepatch on this host."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.client.commands.connection import (
    add_base_patches,
    add_connection,
    add_limit,
    add_trial,
    base_patch_options,
    check_trial_options,
    server_change_options,
)
from elivepatch.client.commands.options import add_changing, add_require_trial
from elivepatch.client.commands.output import print_install
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import read_release
from elivepatch.client.livepatch.apply import ApplyOptions, apply
from elivepatch.client.server.base_patches import base_patches_of
from elivepatch.client.server.patch_files import read_expectations, read_series
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "apply", help="build source patches for this host and load them", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("patches", metavar="PATCH", nargs="+", type=Path, help="source patches, in order")
    parser.add_argument("--dry-run", action="store_true", help="do everything except loading, and report the same")
    parser.add_argument(
        "--stack",
        action="store_true",
        help="load the livepatch beside those that are live, instead of one that carries and replaces them",
    )
    add_trial(parser)
    add_base_patches(parser)
    add_limit(parser)
    add_connection(parser)
    add_require_trial(parser)
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Read the files, apply them and print the result."""
    check_trial_options(arguments)
    given = read_series(arguments.patches)
    expectations = read_expectations(arguments.expect)
    names = ", ".join(file.name for file in arguments.patches)
    options = ApplyOptions(
        change=server_change_options(arguments, output),
        base_patches=base_patches_of(base_patch_options(arguments), read_release(machines.this_machine().host)),
        dry_run=arguments.dry_run,
        stack=arguments.stack,
        trial=not arguments.no_trial,
        thorough=arguments.thorough,
    )
    report = apply(given.patches, expectations, options, reason=f"apply {names}", progress=output.progress)
    print_install(report, output)
    return ExitStatus.OK
