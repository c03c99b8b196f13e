# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch check`: ask a server if source patches can be a livepatch, and build nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.client.commands.connection import (
    add_base_patches,
    add_connection,
    add_limit,
    base_patch_options,
    server_options,
)
from elivepatch.client.commands.report import follow_job, show_report, submit_job
from elivepatch.client.server.base_patches import base_patches_of
from elivepatch.client.server.connection import connect
from elivepatch.client.server.patch_files import read_series, write_whole
from elivepatch.client.server.timeout import time_limit
from elivepatch.commandline import Subparsers
from elivepatch.model.build import BuildRequest, Proposal
from elivepatch.model.errors import ExitStatus, UsageError
from elivepatch.model.kernel import parse_release
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "check", help="check if source patches can be a livepatch", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("patches", metavar="PATCH", nargs="+", type=Path, help="source patches, in order")
    parser.add_argument("--kernel", metavar="RELEASE", required=True, help="`uname -r` of the host")
    parser.add_argument(
        "--rewrite",
        action="store_true",
        help="if they cannot, print a rewritten patch that can, and the reason for each change",
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT.patch", type=Path, help="write the patch of --rewrite to this file instead"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    add_base_patches(parser)
    add_limit(parser)
    add_connection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Request the verdict, wait for it and print it."""
    if arguments.output is not None and not arguments.rewrite:
        raise UsageError("usage", "--output is for the patch of --rewrite.", advice="See `elivepatch check --help`.")
    release = parse_release(arguments.kernel)
    request = BuildRequest(
        release=release,
        series=read_series(arguments.patches),
        trial=False,
        check_only=True,
        rewrite=arguments.rewrite,
        base_patches=base_patches_of(base_patch_options(arguments), release),
    )
    server = server_options(arguments)
    with connect(server) as api, time_limit(api.limit_s) as waiting:
        waiting.job = submit_job(api, request, output)
        report = follow_job(api, waiting.job, server, output)
    output.document(report.document)
    if not output.as_json:
        show_report(report, output)
    if report.proposal is not None:
        _propose(report.proposal, arguments.output, output)
    return report.exit_status


def _propose(proposal: Proposal, file: Path | None, output: Output) -> None:
    """Show the steps of a proposal, and print or save its patch."""
    for number, step in enumerate(proposal.steps, 1):
        output.note(f"proposal {number}: {step.path}: {step.what} [{step.code}]. {step.why}.")
    if not proposal.patch:
        output.note(f"no proposal: {proposal.refusal}")
    elif file is None:
        output.verbatim(proposal.patch)
    else:
        write_whole(file, proposal.patch.encode())
        output.note(f"saved {file}: read it, then build it unchanged")
