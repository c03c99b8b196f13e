# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch kernels`: list the kernels that a server can build for."""

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
    parser = subparsers.add_parser(
        "kernels", help="list the kernels that the server can build for", description=__doc__, allow_abbrev=False
    )
    add_json(parser)
    add_connection(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Ask and list."""
    with connect(server_options(arguments)) as api, time_limit(api.limit_s):
        kernels = api.kernels()
    output.document({"kernels": [kernel.as_dict() for kernel in kernels]})
    if kernels:
        output.table(
            ("RELEASE", "ARCH", "BUILD-ID", "COMPILER"),
            [(kernel.release, kernel.arch, kernel.build_id, kernel.compiler) for kernel in kernels],
        )
    else:
        output.line("The server has no bases yet; the first request for a kernel makes one.")
    return ExitStatus.OK
