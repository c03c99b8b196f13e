# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch config show`: print the settings in force and the source of each; secrets are masked."""

from __future__ import annotations

import argparse
import os
import tomllib
from dataclasses import asdict

from elivepatch.client.commands.options import add_json
from elivepatch.client.host import machine as machines
from elivepatch.client.options import SETTINGS_FILE, host_settings
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.output import Output

_SECRET = {"token"}


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    config = subparsers.add_parser("config", help="show the settings in force", description=__doc__, allow_abbrev=False)
    commands = config.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = commands.add_parser("show", help="print every setting and its source", allow_abbrev=False)
    add_json(show)
    show.set_defaults(run=run)


def run(_arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print the settings."""
    host = machines.this_machine().host
    settings = asdict(host_settings(host))
    file = host.path(SETTINGS_FILE)
    in_file = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows = []
    for name, value in settings.items():
        variable = f"ELIVEPATCH_{name.upper()}"
        source = variable if variable in os.environ else str(file) if name in in_file else "default"
        shown = ("(set)" if value else "(not set)") if name in _SECRET else value
        rows.append({"name": name, "value": shown, "source": source})
    output.document({"settings": rows})
    output.table(("SETTING", "VALUE", "FROM"), [(row["name"], row["value"], row["source"]) for row in rows])
    return ExitStatus.OK
