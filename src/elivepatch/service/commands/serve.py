# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server serve`: answer clients and work on their jobs."""

from __future__ import annotations

import argparse

from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service import log
from elivepatch.service.commands.options import add_settings, add_worker, settings_of
from elivepatch.service.http.server import serve
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.step_process.backend import ProcessBackend


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("serve", help="answer clients and work on their jobs", allow_abbrev=False)
    add_settings(parser)
    parser.add_argument("--host", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="the port to listen on (default: 8440)")
    parser.add_argument(
        "--no-worker", action="store_true", help="answer only; `elivepatch-server worker` does the jobs"
    )
    add_worker(parser)
    parser.add_argument("--tls-certificate", metavar="FILE", help="speak TLS with this certificate chain (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key, where it is not in the same file")
    parser.add_argument("--tls-client-ca", metavar="FILE", help="let in only clients with a certificate of these")
    parser.add_argument("--overlays", metavar="DIR", help="patches that the role submitter may ask for")
    parser.add_argument(
        "--legacy", metavar="NETWORKS", help="speak the protocol of 2017 with clients of these addresses"
    )
    parser.add_argument("--legacy-tenant", metavar="NAME", help="whose their builds are (default: legacy)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _output: Output) -> ExitStatus:
    """Serve until told to stop."""
    settings = settings_of(arguments)
    log.set_up()
    serve(settings, None if arguments.no_worker else ProcessBackend(LocalBackend(settings)))
    return ExitStatus.OK
