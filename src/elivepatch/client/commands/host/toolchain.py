# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch toolchain`: pack the compiler that built the running kernel, for a server that lacks it."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.client.commands.options import add_json
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import find_config, read_compiler, read_release
from elivepatch.client.push.compiler import Capture
from elivepatch.client.push.pieces import pieces
from elivepatch.commandline import Subparsers
from elivepatch.files.atomic import write_parts
from elivepatch.model.errors import ExitStatus, UsageError
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "toolchain", help="pack the compiler of the running kernel: capture", description=__doc__, allow_abbrev=False
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    capture = actions.add_parser(
        "capture",
        help="pack the compiler that built the running kernel",
        description="Pack the compiler that built the running kernel, with everything that it and a kernel's build "
        "load, into an archive. The server's operator adds it: elivepatch-server toolchain add NAME --root FILE",
        allow_abbrev=False,
    )
    capture.add_argument("-o", "--output", metavar="FILE.tar.gz", type=Path, required=True, help="the archive to write")
    add_json(capture)
    capture.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Find the compiler, pack it, and say how it is added."""
    file: Path = arguments.output
    if not file.parent.is_dir():
        raise UsageError(
            "output", f"{file.parent} is not a directory.", advice="Make it first, or choose another place."
        )
    host = machines.this_machine().host
    wanted = read_compiler(host, find_config(host, read_release(host)))
    capture = Capture(host)
    compiler = capture.compiler(wanted)
    capture.take(compiler)
    size = write_parts(file, pieces(capture.entries()))
    name = Path(compiler).name
    output.document(
        {"file": str(file), "compiler": name, "says": wanted, "files": len(capture.found), "size_bytes": size}
    )
    output.line(f"{file}: {wanted}, {len(capture.found)} files, {size >> 20} MiB.")
    output.line(f"On the server: elivepatch-server toolchain add NAME --root {file.name} --compiler {name}")
    return ExitStatus.OK
