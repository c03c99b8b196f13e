# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame of both commands: finds the subcommand, turns errors into sentences and exit statuses."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import NoReturn, TypeAlias

from elivepatch.model.errors import ElivepatchError, ExitStatus, UsageError
from elivepatch.output import Output

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse names it nowhere else
"""What a command's module adds its parser to."""

Command = Callable[[argparse.Namespace, Output], ExitStatus]
"""What a subcommand sets as its parser's default `run`."""

INTERRUPTED = 130
"""The exit status of a command that the user interrupted: 128 + SIGINT, as shells have it."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours: a code, a sentence, a piece of advice."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message."""
        sentence = message[0].upper() + message[1:]
        raise UsageError("usage", f"{sentence}.", advice=f"See `{self.prog} --help`.")


def build_parser(prog: str, description: str, commands: ModuleType) -> argparse.ArgumentParser:
    """Return the whole command line; every module of the package `commands` registers its own subcommands."""
    parser = Parser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("-v", "--version", action="version", version=f"{prog} {version('elivepatch')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda found: found.name):
        importlib.import_module(f"{commands.__name__}.{module.name}").register(subparsers)
    return parser


def run(prog: str, description: str, commands: ModuleType, argv: Sequence[str] | None) -> int:
    """Run one command and return its exit status (docs/exit-status.md)."""
    output = Output()
    try:
        arguments = build_parser(prog, description, commands).parse_args(argv)
        output.as_json = bool(getattr(arguments, "json", False))
        command: Command = arguments.run
        return int(command(arguments, output))
    except ElivepatchError as error:
        output.problem(error.problem)
        return int(error.problem.kind.exit_status)
    except KeyboardInterrupt:
        output.line()
        return INTERRUPTED
    except BrokenPipeError:
        return int(ExitStatus.OK)
