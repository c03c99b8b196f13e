# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that commands of `elivepatch-server` share. This module registers no command."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from elivepatch.commandline import Command
from elivepatch.settings import SERVER_FILE, ServerSettings, load


def add_worker(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that run jobs."""
    parser.add_argument("--worker", metavar="NAME", help="the name of this worker (default: the machine's)")
    parser.add_argument(
        "--step-limit-s", metavar="S", type=float, help="time limit for a build or a trial, in seconds (default: 3600)"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that every server command has."""
    parser.add_argument("--config", metavar="FILE", type=Path, help=f"settings (default: {SERVER_FILE})")
    parser.add_argument("--state", metavar="DIR", dest="state_dir", type=Path, help="state directory: back it up")
    parser.add_argument(
        "--cache", metavar="DIR", dest="cache_dir", type=Path, help="cache directory: it can be made again"
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, help="number of compilers that run at once (default: all cores)"
    )
    parser.add_argument(
        "--database", metavar="URL", help="a PostgreSQL database (default: SQLite in the state directory)"
    )
    parser.add_argument(
        "--store", metavar="URL", help="an object store such as S3 (default: a directory in the state directory)"
    )


def add_common(parser: argparse.ArgumentParser, run: Command) -> None:
    """Add the options of a command that prints a result and ends, and its function `run`."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser)
    parser.set_defaults(run=run)


def settings_of(arguments: argparse.Namespace) -> ServerSettings:
    """Return the settings from flags, environment and file; raises UsageError if they cannot be read."""
    return load(
        ServerSettings(),
        file=arguments.config or SERVER_FILE,
        flags=vars(arguments),
        environ=os.environ,
        required=arguments.config is not None,
    )
