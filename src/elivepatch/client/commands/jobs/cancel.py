# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cancel`: end a job at the server."""

from __future__ import annotations

import argparse

from elivepatch.client.commands.connection import add_connection, server_options
from elivepatch.client.commands.options import add_json
from elivepatch.client.server.connection import connect
from elivepatch.client.server.timeout import time_limit
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("cancel", help="end a job at the server", description=__doc__, allow_abbrev=False)
    parser.add_argument("job", metavar="ID", help="the job that `elivepatch build` printed")
    add_json(parser)
    add_connection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """End the job for all that wait for it; a job that is done is left unchanged."""
    with connect(server_options(arguments)) as api, time_limit(api.limit_s):
        done = api.cancel(arguments.job)
    output.document({"id": arguments.job, "done": done})
    output.line(f"{arguments.job} is {'done' if done else 'about to end'}.")
    return ExitStatus.OK
