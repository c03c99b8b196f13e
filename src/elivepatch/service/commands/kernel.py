# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server kernel`: the kernels that livepatches can be built for."""

from __future__ import annotations

import argparse

from elivepatch.build.base import Base
from elivepatch.build.stock import aliases
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service.building import BuildingWorkshop
from elivepatch.service.commands.serve import add_settings, settings_of


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "kernel", help="the kernels to build for: add, list, show, remove", allow_abbrev=False
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    names = f"a release as `uname -r` prints it, or the newest stock cloud kernel of {', '.join(aliases())}"
    for name, run, help_text in (
        ("add", _add, "make the base of a distribution's stock kernel"),
        ("show", _show, "tell everything about one base"),
        ("remove", _remove, "remove a base and what was compiled for it"),
    ):
        action = actions.add_parser(name, help=help_text, allow_abbrev=False)
        action.add_argument("kernel", metavar="KERNEL", help=names if name == "add" else "a release")
        _common(action, run)
    _common(actions.add_parser("list", help="list the bases", allow_abbrev=False), _list)


def _common(parser: argparse.ArgumentParser, run: object) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser)
    parser.set_defaults(run=run)


def _workshop(arguments: argparse.Namespace) -> BuildingWorkshop:
    return BuildingWorkshop(settings_of(arguments))


def _add(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    base = _workshop(arguments).maker(output.progress).add(arguments.kernel)
    output.document(_described(base))
    output.line(f"{base.release} is ready: build-id {base.build_id}, {base.size_bytes >> 20} MiB.")
    return ExitStatus.OK


def _list(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    bases = _workshop(arguments).bases.list()
    output.document([_described(base) for base in bases])
    if bases:
        output.table(
            ("RELEASE", "VERSION", "KIND", "TOOLCHAIN", "MIB", "BUILD-ID", "DIGEST"),
            [
                (base.release, base.version, base.kind, base.toolchain, base.size_bytes >> 20, base.build_id[:12],
                 base.digest[:12])
                for base in bases
            ],
        )  # fmt: skip
    else:
        output.line("No kernel yet. Add one: elivepatch-server kernel add debian-13")
    return ExitStatus.OK


def _show(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    base = _workshop(arguments).bases.get(arguments.kernel)
    described = _described(base)
    output.document(described)
    output.table(("FACT", "VALUE"), [(key, value) for key, value in described.items() if not isinstance(value, dict)])
    output.line()
    output.table(("PACKAGE", "SHA-256"), base.packages.items())
    return ExitStatus.OK


def _remove(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    _workshop(arguments).bases.remove(arguments.kernel)
    output.document({"removed": arguments.kernel})
    output.line(f"{arguments.kernel} is removed.")
    return ExitStatus.OK


def _described(base: Base) -> dict[str, object]:
    return base.as_dict() | {"digest": base.digest, "objects": len(base.units.by_source)}
