# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server cve`: make the CVE records that the server delivers to its hosts."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.advisory.records.refresh import refresh_index
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output
from elivepatch.service.commands.options import add_common, settings_of
from elivepatch.service.state_directory import RECORDS_FILE, make_state_directory

_NAMED = 10


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("cve", help="the CVE records for hosts: index", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    index = actions.add_parser("index", help="make the index of all records, or update it", allow_abbrev=False)
    index.add_argument(
        "--records",
        metavar="SOURCE",
        type=Path,
        required=True,
        help="the kernel's CVE list: a clone, a directory, a .tar.xz, .tar.gz or .zip, or an index",
    )
    index.add_argument(
        "--older", metavar="DIR", type=Path, help="kernel_cves.json and stream_fixes.json of linux_kernel_cves"
    )
    index.add_argument("--overrides", metavar="FILE", type=Path, help="your own records, which override the list")
    add_common(index, _index)


def _index(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    state = settings_of(arguments).state_dir
    make_state_directory(state)
    made = refresh_index(
        state / RECORDS_FILE,
        arguments.records,
        older=arguments.older,
        overrides=arguments.overrides,
        progress=output.progress,
    )
    if made.rebuilt_because:
        output.note(f"note: {made.rebuilt_because} It is made from scratch.")
    for found in (*made.records.findings.named, *made.beside.named)[:_NAMED]:
        output.note(f"note: {found.name}: {found.message} [{found.code}]")
    output.document(made.as_dict())
    output.line(f"{made.sentence} for each host")
    return ExitStatus.OK
