# SPDX-License-Identifier: GPL-2.0-or-later
"""Frame of both commands: it finds the subcommand, and turns errors into sentences and exit statuses."""

from __future__ import annotations

import argparse
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeAlias

from elivepatch.model.errors import ElivepatchError, ExitStatus, Kind, Problem, UsageError
from elivepatch.output import Output

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - argparse names it nowhere else
"""Object to which a command's module adds its parser."""

Command = Callable[[argparse.Namespace, Output], ExitStatus]
"""Function that a subcommand sets as its parser's default `run`."""

INTERRUPTED = 130
"""Exit status of a command that the user interrupted: 128 + SIGINT, as in shells."""


# Modules in a package of commands that several commands share; they register no command.
_SHARED = frozenset({"connection", "legacy", "options", "output", "report"})


class Parser(argparse.ArgumentParser):
    """An argument parser that raises our errors: a code, a message, a piece of advice."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message."""
        sentence = message[0].upper() + message[1:]
        raise UsageError("usage", f"{sentence}.", advice=f"See `{self.prog} --help`.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise UsageError for a command that does not exist, with the name of the one that was probably meant."""
        if _is_group(action) and action.choices is not None and value not in action.choices:
            meant = _probably_meant(self.prog, str(value), dict(action.choices))
            sentence = f"There is no command {str(value)[:60]!r}"
            sentence += f": did you mean {' or '.join(f'`{one}`' for one in meant)}?" if meant else "."
            raise UsageError("usage", sentence, advice=f"`{self.prog} --help` lists the commands.")
        super()._check_value(action, value)


def _probably_meant(prog: str, given: str, commands: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """Return the commands, at most two, that a person who typed `given` after `prog` probably meant."""
    # argparse gives no other way to the commands of a group.
    groups = {name: [one for one in of._actions if _is_group(one)] for name, of in commands.items()}  # noqa: SLF001
    elsewhere = [
        f"{prog} {name} {given}" for name, of in groups.items() if any(given in list(one.choices or ()) for one in of)
    ]
    return (elsewhere or [f"{prog} {name}" for name in difflib.get_close_matches(given, commands, n=2)])[:2]


def _is_group(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)  # noqa: SLF001 - see Subparsers


class _Version(argparse.Action):
    """Action that prints the version. It looks the version up only then, because that is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_given: object) -> NoReturn:
        """Print the version and exit."""
        from importlib.metadata import version

        sys.stdout.write(f"{parser.prog} {version('elivepatch')}\n")
        parser.exit()


def build_parser(
    prog: str, description: str, commands: ModuleType, argv: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """Return the command line; each command's module in the package `commands` registers the subcommand of its name.

    If `argv` begins with one of these names, only that module is imported: a command does not wait for the modules of
    other commands.
    """
    parser = Parser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("-v", "--version", action=_Version, nargs=0, help="show program's version number and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    modules = _command_modules(commands)
    for name in sorted(modules) if not argv or argv[0] not in modules else [argv[0]]:
        importlib.import_module(modules[name]).register(subparsers)
    return parser


def _command_modules(commands: ModuleType) -> dict[str, str]:
    """Return the full name of each command's module, by command; nothing is imported.

    A command is a module of the package itself or of a folder in it: folders group commands, they do not name them.
    """
    modules: dict[str, str] = {}
    for found in pkgutil.iter_modules(commands.__path__):
        if found.ispkg:
            folders = [str(Path(place, found.name)) for place in commands.__path__]
            prefix = f"{commands.__name__}.{found.name}"
            modules |= {inner.name: f"{prefix}.{inner.name}" for inner in pkgutil.iter_modules(folders)}
        elif found.name not in _SHARED:
            modules[found.name] = f"{commands.__name__}.{found.name}"
    return modules


def run(
    prog: str,
    description: str,
    commands: ModuleType,
    argv: Sequence[str] | None,
    *,
    begin: Callable[[], None] = lambda: None,
) -> int:
    """Run one command and return its exit status (docs/exit-status.md); `begin` is called once errors can be
    printed.
    """
    argv = sys.argv[1:] if argv is None else argv
    # Before the command line is parsed: an error in it must be printed in the requested form too.
    output = Output(as_json="--json" in argv)
    try:
        begin()
        arguments = build_parser(prog, description, commands, argv).parse_args(argv)
        output.as_json = bool(getattr(arguments, "json", False))
        command: Command = arguments.run
        return int(command(arguments, output))
    except ElivepatchError as error:
        output.problem(error.problem)
        return int(error.problem.kind.exit_status)
    except KeyboardInterrupt as interruption:
        output.problem(_interrupted(" ".join(map(str, interruption.args))))
        return INTERRUPTED
    except BrokenPipeError:
        return int(ExitStatus.OK)


def _interrupted(left: str) -> Problem:
    """Return the problem for an interruption; `left` names the things that the command left behind, empty if none."""
    return Problem(
        code="interrupted",
        kind=Kind.ERROR,
        message="The command was interrupted.",
        advice="Run it again; on a host, `elivepatch status` shows what is live.",
        excerpt=left,
    )
