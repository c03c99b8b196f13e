# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server serve`: answer clients and work on their jobs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from elivepatch.commandline import Command, Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service import log
from elivepatch.service.http.server import serve
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import SERVER_FILE, ServerSettings, load


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


def add_worker(parser: argparse.ArgumentParser) -> None:
    """Add the options of whoever runs jobs."""
    parser.add_argument("--worker", metavar="NAME", help="this worker's own name (default: the host's)")
    parser.add_argument("--step-limit-s", metavar="S", type=float, help="how long a build may take (default: 3600)")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that every server command has."""
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"settings (default: {SERVER_FILE})")
    parser.add_argument("--state", metavar="DIR", dest="state_dir", type=Path, help="what must be backed up")
    parser.add_argument("--cache", metavar="DIR", dest="cache_dir", type=Path, help="what can be made again")
    parser.add_argument("--jobs", metavar="N", type=int, help="how many compilers run at once (default: all cores)")
    parser.add_argument("--database", metavar="URL", help="PostgreSQL; SQLite in the state directory without")
    parser.add_argument("--store", metavar="URL", help="S3 and the like; a directory in the state directory without")


def add_common(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the options of a command that answers and ends, and `run` as what it does."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser)
    parser.set_defaults(run=run)


def settings_of(arguments: argparse.Namespace) -> ServerSettings:
    """Return the settings that flags, environment and file say; raises UsageError where they cannot be read."""
    return load(
        ServerSettings(),
        file=arguments.config or SERVER_FILE,
        flags=vars(arguments),
        environ=os.environ,
        required=arguments.config is not None,
    )


def run(arguments: argparse.Namespace, _output: Output) -> ExitStatus:
    """Serve until told to stop."""
    settings = settings_of(arguments)
    log.set_up()
    serve(settings, None if arguments.no_worker else LocalBackend(settings))
    return ExitStatus.OK
