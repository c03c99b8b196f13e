# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server audit`: verify that the audit log is complete and unchanged."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict

from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, UsageError
from elivepatch.output import Output
from elivepatch.service.access.audit import START, Audit
from elivepatch.service.commands.options import add_common, settings_of
from elivepatch.service.db.database import open_tables
from elivepatch.service.state_directory import make_state_directory


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("audit", help="the audit log: verify", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    verify = actions.add_parser("verify", help="check that no entry was changed or removed", allow_abbrev=False)
    verify.add_argument(
        "--head", metavar="DIGEST", help="a digest that an earlier run printed, which must still be in the log"
    )
    add_common(verify, _verify)


def _verify(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    head = arguments.head or START
    if not re.fullmatch(r"[0-9a-f]{64}", head, re.ASCII):
        raise UsageError(
            "audit-head", "That is not a digest.", advice="Give the 64 digits that an earlier run printed."
        )
    settings = settings_of(arguments)
    make_state_directory(settings.state_dir)
    database = open_tables(settings)
    try:
        seen = Audit(database).verify(head)
    finally:
        database.dispose()
    output.document(asdict(seen))
    if seen.broken is not None:
        output.line(f"The log was changed: entry {seen.broken} does not follow from the one before.")
        return ExitStatus.TRUST
    if not seen.seen:
        output.line("The log was cut: it has no entry with the digest that you gave.")
        return ExitStatus.TRUST
    output.line(f"{seen.entries} entries, none changed. Keep the digest of the last one elsewhere: {seen.head}")
    return ExitStatus.OK
