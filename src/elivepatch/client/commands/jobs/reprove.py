# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch reprove`: have another server build a livepatch again from its proof, and compare the bytes."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.client.commands.connection import add_connection, add_limit, server_options
from elivepatch.client.commands.options import add_json, add_module_files
from elivepatch.client.host import machine as machines
from elivepatch.client.options import TRUSTED_FILE
from elivepatch.client.proof.files import read_files
from elivepatch.client.proof.reproof import Reproof, reprove
from elivepatch.client.server.connection import connect
from elivepatch.client.server.patch_files import read_series
from elivepatch.client.server.timeout import time_limit
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, Kind, Problem
from elivepatch.output import Output
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.pins import read_pins


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "reprove", help="have another server build a livepatch again", description=__doc__, allow_abbrev=False
    )
    add_module_files(parser)
    parser.add_argument(
        "patches", metavar="PATCH", nargs="*", type=Path, help="source patches in it that the other server lacks"
    )
    add_limit(parser)
    add_connection(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Verify the files, have the server build them again, and print the result."""
    files = read_files(arguments.module, arguments.proof)
    sources = read_series(arguments.patches).patches if arguments.patches else ()
    pins = read_pins(machines.this_machine().host.path(TRUSTED_FILE))
    pinned = [PublicKey.from_hex(pin.public_key) for pin in pins]
    statement = verify_livepatch(files.proof, files.module, pinned)
    with connect(server_options(arguments)) as server, time_limit(server.limit_s):
        made = reprove(server, statement, sources, pinned, output.progress)
        url = server.url
    problem = None if made.identical else _problem(made, statement.name, url)
    output.document(made.as_dict() | {"problem": problem.as_dict() if problem is not None else None})
    if problem is None:
        output.line(f"{statement.name}: {url} built the same {len(files.module)} bytes again, in job {made.job}.")
        return ExitStatus.OK
    if not output.as_json:
        output.problem(problem)
    return problem.kind.exit_status


def _problem(made: Reproof, name: str, url: str) -> Problem:
    if made.differences:
        advice = "The lines above name what the two servers do not share. Give this server the materials of the proof."
    elif made.why_unknown:
        advice = f"The materials of the two could not be compared. {made.why_unknown}"
    else:
        advice = "Both had the same materials: one of the two servers is broken or lies. Load the livepatch nowhere."
    return Problem(
        code="not-identical",
        kind=Kind.TRUST,
        message=f"{url} built another module from the materials of {name}.",
        advice=advice,
        excerpt="\n".join(made.differences),
    )
