# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server toolchain`: manage the compilers that built the kernels."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.build.roots.declared import declarations
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, UsageError
from elivepatch.output import Output
from elivepatch.service.commands.options import add_common, settings_of
from elivepatch.service.jobs.local_backend import LocalBackend


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("toolchain", help="compilers: add, list, verify, remove", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    known = ", ".join(sorted(declarations()))
    for name, run, help_text in (
        ("add", _add, "make a toolchain from the distribution's packages, or from a root file system"),
        ("verify", _verify, "compare a toolchain's content with its digest"),
        ("remove", _remove, "remove a toolchain that no base needs"),
    ):
        action = actions.add_parser(name, help=help_text, allow_abbrev=False)
        names = f"one of {known}; NAME@VERSION for a later version of its compiler"
        action.add_argument("name", metavar="NAME", help=names + "; with --root, a new name" * (name == "add"))
        if name == "add":
            _add_root_options(action)
        add_common(action, run)
    add_common(actions.add_parser("list", help="list the toolchains", allow_abbrev=False), _list)


def _add_root_options(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--root",
        metavar="PATH",
        type=Path,
        help="a root file system, of any distribution, with the compiler of a kernel: a directory or a tar archive",
    )
    action.add_argument(
        "--compiler", metavar="COMMAND", help="with --root: the compiler's command in it (gcc, or the only gcc-N)"
    )


def _add(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    toolchains = LocalBackend(settings_of(arguments)).toolchains
    notes: tuple[str, ...] = ()
    if arguments.root is not None:
        made, looked = toolchains.add_root(arguments.name, arguments.root, arguments.compiler, output.progress)
        notes = looked.notes
    elif arguments.compiler is not None:
        raise UsageError(
            "root-missing", "--compiler belongs to --root.", advice="Give the root file system that has the compiler."
        )
    else:
        made = toolchains.add(arguments.name, output.progress)
    output.document(made.as_dict() | {"notes": notes})
    output.line(f"{made.name} is ready: {made.says}, {made.size_bytes >> 20} MiB.")
    for note in notes:
        output.note(f"note: {note}")
    return ExitStatus.OK


def _list(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    present = {toolchain.name: toolchain for toolchain in LocalBackend(settings_of(arguments)).toolchains.list()}
    output.document([toolchain.as_dict() for toolchain in present.values()])
    rows = []
    for name in sorted(present.keys() | declarations().keys()):
        made = present.get(name)
        declared = declarations().get(name.partition("@")[0])
        facts = (made.says, made.size_bytes >> 20, made.digest[:12]) if made else ("not made yet", "", "")
        if made is not None and not made.current:
            facts = (f"{made.says} (for older bases only)", *facts[1:])
        rows.append((name, declared.suite if declared else "(brought)", *facts))
    output.table(("NAME", "SUITE", "COMPILER", "MIB", "DIGEST"), rows)
    return ExitStatus.OK


def _verify(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    intact = LocalBackend(settings_of(arguments)).toolchains.verify(arguments.name)
    output.document({"name": arguments.name, "intact": intact})
    output.line(f"{arguments.name} {'is unchanged' if intact else 'has changed since it was made: remove it'}.")
    return ExitStatus.OK if intact else ExitStatus.TRUST


def _remove(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    backend = LocalBackend(settings_of(arguments))
    backend.toolchains.remove(arguments.name, [*backend.bases.list(), *backend.debug_kernels.list()])
    output.document({"removed": arguments.name})
    output.line(f"{arguments.name} is removed.")
    return ExitStatus.OK
