# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server toolchain`: manage the compilers that built the kernels."""

from __future__ import annotations

import argparse

from elivepatch.build.base.toolchain import Toolchains, declarations
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service.commands.options import add_common, settings_of
from elivepatch.service.jobs.local_backend import LocalBackend


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("toolchain", help="compilers: add, list, verify, remove", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, run, help_text in (
        ("add", _add, "make a toolchain from the distribution's packages"),
        ("verify", _verify, "compare a toolchain's content with its digest"),
        ("remove", _remove, "remove a toolchain"),
    ):
        action = actions.add_parser(name, help=help_text, allow_abbrev=False)
        action.add_argument("name", metavar="NAME", help=f"one of {', '.join(sorted(declarations()))}")
        add_common(action, run)
    add_common(actions.add_parser("list", help="list the toolchains", allow_abbrev=False), _list)


def _toolchains(arguments: argparse.Namespace) -> Toolchains:
    return LocalBackend(settings_of(arguments)).toolchains


def _add(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    made = _toolchains(arguments).add(arguments.name, output.progress)
    output.document(made.as_dict())
    output.line(f"{made.name} is ready: {made.comment}, {made.size_bytes >> 20} MiB.")
    return ExitStatus.OK


def _list(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    present = {toolchain.name: toolchain for toolchain in _toolchains(arguments).list()}
    output.document([toolchain.as_dict() for toolchain in present.values()])
    rows = []
    for name, declaration in sorted(declarations().items()):
        made = present.get(name)
        facts = (made.comment, made.size_bytes >> 20, made.digest[:12]) if made else ("not made yet", "", "")
        rows.append((name, declaration.suite, *facts))
    output.table(("NAME", "SUITE", "COMPILER", "MIB", "DIGEST"), rows)
    return ExitStatus.OK


def _verify(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    intact = _toolchains(arguments).verify(arguments.name)
    output.document({"name": arguments.name, "intact": intact})
    output.line(f"{arguments.name} {'is unchanged' if intact else 'has changed since it was made: remove it'}.")
    return ExitStatus.OK if intact else ExitStatus.TRUST


def _remove(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    _toolchains(arguments).remove(arguments.name)
    output.document({"removed": arguments.name})
    output.line(f"{arguments.name} is removed.")
    return ExitStatus.OK
