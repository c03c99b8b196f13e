# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server serve`: answer clients and carry out their jobs."""

from __future__ import annotations

import argparse

from elivepatch.build.providers.choice import check_providers
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
    parser = subparsers.add_parser("serve", help="answer clients and carry out their jobs", allow_abbrev=False)
    add_settings(parser)
    parser.add_argument("--host", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="the port to listen on (default: 8440)")
    parser.add_argument(
        "--no-worker", action="store_true", help="answer clients only; `elivepatch-server worker` carries out the jobs"
    )
    add_worker(parser)
    parser.add_argument("--tls-certificate", metavar="FILE", help="use TLS with this certificate chain (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key, if it is in another file")
    parser.add_argument(
        "--tls-client-ca", metavar="FILE", help="accept only clients with a certificate from one of these authorities"
    )
    parser.add_argument("--overlays", metavar="DIR", help="a directory of patches that the role submitter may build")
    parser.add_argument(
        "--legacy", metavar="NETWORKS", help="accept the protocol of 2017 from clients with these addresses"
    )
    parser.add_argument("--legacy-tenant", metavar="NAME", help="the tenant of their builds (default: legacy)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _output: Output) -> ExitStatus:
    """Serve until a signal stops the server."""
    settings = settings_of(arguments)
    check_providers(settings.providers, settings.sources, settings.packages)
    log.set_up()
    serve(settings, None if arguments.no_worker else ProcessBackend(LocalBackend(settings)))
    return ExitStatus.OK
