# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server worker`: carry out the jobs of a server that runs elsewhere."""

from __future__ import annotations

import argparse

from elivepatch.build.providers.choice import check_providers
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service import log
from elivepatch.service.commands.options import add_settings, add_worker, settings_of
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.step_process.backend import ProcessBackend
from elivepatch.service.jobs.worker import work


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("worker", help="carry out the jobs of a server elsewhere", allow_abbrev=False)
    add_settings(parser)
    add_worker(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, _output: Output) -> ExitStatus:
    """Work until a signal stops the worker."""
    settings = settings_of(arguments)
    check_providers(settings.providers, settings.sources, settings.packages)
    log.set_up()
    work(settings, ProcessBackend(LocalBackend(settings)))
    return ExitStatus.OK
