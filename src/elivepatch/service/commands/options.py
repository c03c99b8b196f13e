# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that commands of `elivepatch-server` share. This module registers no command."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from elivepatch.commandline import Command
from elivepatch.settings import SERVER_FILE, ServerSettings, load


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
