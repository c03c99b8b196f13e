# SPDX-License-Identifier: GPL-2.0-or-later
"""The `elivepatch` command: finds the subcommand, turns errors into sentences and exit statuses."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import NoReturn

from elivepatch.client import commands
from elivepatch.client.output import Output
from elivepatch.model.errors import ElivepatchError, ExitStatus, UsageError

Command = Callable[[argparse.Namespace, Output], ExitStatus]
"""What a subcommand sets as its parser's default `run`."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours: a code, a sentence, a piece of advice."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message."""
        sentence = message[0].upper() + message[1:]
        raise UsageError("usage", f"{sentence}.", advice=f"See `{self.prog} --help`.")


def build_parser() -> argparse.ArgumentParser:
    """Return the whole command line, every subcommand registered by its own module."""
    parser = Parser(
        prog="elivepatch", description="Change a running Linux kernel without a reboot.", allow_abbrev=False
    )
    parser.add_argument("-v", "--version", action="version", version=f"elivepatch {version('elivepatch')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda found: found.name):
        importlib.import_module(f"{commands.__name__}.{module.name}").register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (docs/exit-status.md)."""
    output = Output()
    try:
        arguments = build_parser().parse_args(argv)
        output.as_json = bool(getattr(arguments, "json", False))
        run: Command = arguments.run
        return int(run(arguments, output))
    except ElivepatchError as error:
        output.problem(error.problem)
        return int(error.problem.kind.exit_status)
    except KeyboardInterrupt:
        output.line()
        return 130
    except BrokenPipeError:
        return int(ExitStatus.OK)
