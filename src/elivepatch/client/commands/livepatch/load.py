# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch load`: load a livepatch from a file, without a server, verified like one from a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.client.commands.options import add_changing, add_require_trial, change_options
from elivepatch.client.commands.output import print_install
from elivepatch.client.host.findings import require
from elivepatch.client.host.modules import MODULE_LIMIT
from elivepatch.client.livepatch.install import Delivery, install
from elivepatch.client.livepatch.live_state import require_settled
from elivepatch.client.livepatch.session import changing
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, TrustError, UsageError
from elivepatch.model.series import SourcePatch
from elivepatch.output import Output
from elivepatch.trust.envelope import MAX_BYTES


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("load", help="load a livepatch from a file", description=__doc__, allow_abbrev=False)
    parser.add_argument("module", metavar="FILE.ko", type=Path, help="the module from a server")
    parser.add_argument(
        "--signature", metavar="FILE", type=Path, help="its signed statement (default: FILE.ko.sig beside it)"
    )
    parser.add_argument(
        "--source",
        metavar="PATCH",
        action="append",
        default=[],
        type=Path,
        help="a source patch in it, kept so that later builds can carry it (may be given more than once)",
    )
    parser.add_argument("--dry-run", action="store_true", help="do everything except loading it")
    add_require_trial(parser)
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Read the files, install the livepatch and print the result."""
    module: Path = arguments.module
    content = _read(module, MODULE_LIMIT, "module")
    signature = arguments.signature or module.with_name(f"{module.name}.sig")
    if arguments.signature is None and not signature.exists():
        raise TrustError(
            "unsigned",
            f"{module} has no signature beside it: {signature.name} does not exist.",
            advice="Copy the .sig file of the server too, or name it with --signature.",
        )
    envelope = _read(signature, MAX_BYTES, "signature")
    sources = [SourcePatch(file.name, _read(file, MODULE_LIMIT, "source patch")) for file in arguments.source]
    options = change_options(arguments, output)
    with changing(options, output.progress, doing=f"load {module.name}") as session:
        require(session.tools.obstacles)
        require_settled(session.live_state)
        delivery = Delivery(module=content, envelope=envelope, sources=sources)
        report = install(session, delivery, dry_run=arguments.dry_run, reason=f"load {module.name}")
    print_install(report, output)
    return ExitStatus.OK


def _read(file: Path, limit: int, what: str) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise UsageError(
            "file", f"{file} cannot be read as a {what}: {error.strerror}.", advice="Give an existing file."
        ) from error
    if len(content) > limit:
        raise UsageError("file", f"{file} is too large for a {what}.", advice="Give a file from the server.")
    return content
