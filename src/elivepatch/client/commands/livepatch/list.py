# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch list`: list the livepatches of this host, live or only recorded, and the functions they replace."""

from __future__ import annotations

import argparse
from typing import Any

from elivepatch.client.commands.options import add_json
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import loaded_modules
from elivepatch.client.livepatch.inventory import described
from elivepatch.client.livepatch.live_state import read_live_state
from elivepatch.client.livepatch.store import Store
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus, HostError
from elivepatch.output import Output


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "list", help="list the livepatches of this host", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one with all its functions and patches")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print one line for each livepatch, or everything about one."""
    machine = machines.this_machine()
    live_state = read_live_state(machine, Store.of(machine.host).record())
    modules = loaded_modules(machine.host)
    rows = [row for row in described(live_state, modules) if arguments.name in {None, row["name"]}]
    if arguments.name is not None and not rows:
        raise HostError(
            "no-such-livepatch",
            f"No livepatch that is live or recorded here is called {arguments.name}.",
            advice="`elivepatch list` shows them.",
        )
    output.document({"livepatches": rows})
    if arguments.name is not None:
        _tell_one(rows[0], output)
    elif rows:
        output.table(
            ("NAME", "STATE", "FUNCTIONS", "OBJECTS", "PATCHES", "BY"),
            [
                (
                    row["name"],
                    _state(row),
                    len(row["functions"]) or "-",
                    ", ".join(row["objects"]) or "-",
                    ", ".join(patch["name"] for patch in row["series"]) or "-",
                    "elivepatch" if row["recorded"] else "others",
                )
                for row in rows
            ],
        )
    else:
        output.line("No livepatch is live or recorded on this kernel.")
    return ExitStatus.OK


def _state(row: dict[str, Any]) -> str:
    return f"{row['state']} (stays)" if row["stays_in_memory"] and row["state"] != "pinned" else str(row["state"])


def _tell_one(row: dict[str, Any], output: Output) -> None:
    output.line(f"{row['name']}: {row['state']}")
    if row["stays_in_memory"]:
        output.line("  stays      in memory until a reboot, also after it is taken out")
    if row["digest"]:
        output.line(f"  module     sha256 {row['digest']}")
    for patch in row["series"]:
        output.line(f"  patch      {patch['name']} (sha256 {patch['digest'][:12]})")
    for name, patched in row["objects"].items():
        output.line(f"  object     {name}{'' if patched is not False else ' (not loaded, or not patched yet)'}")
    for function in row["functions"]:
        output.line(f"  replaces   {function['object']}:{function['name']},{function['sympos']}")
