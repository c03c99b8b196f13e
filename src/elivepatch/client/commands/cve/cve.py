# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve`: which CVEs a kernel has, and closing them without a reboot."""

from __future__ import annotations

import argparse
from pathlib import Path

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty
from elivepatch.advisory.records.record import SEVERITIES
from elivepatch.client.cve import close as closing
from elivepatch.client.cve import plan as planning
from elivepatch.client.cve import show as looking
from elivepatch.client.cve import update as keeping
from elivepatch.client.cve.inputs import add_ranking, add_records
from elivepatch.client.cve.kernel_under_test import add_keep, add_kernel
from elivepatch.client.options import add_json
from elivepatch.client.server.connection import add_connection, add_limit
from elivepatch.commandline import Command, Subparsers


def register(subparsers: Subparsers) -> None:
    """Add `cve` and its subcommands to the command line."""
    cve = subparsers.add_parser("cve", help="which CVEs this kernel has", description=__doc__, allow_abbrev=False)
    commands = cve.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = _add(commands, "list", "every CVE with its state on one kernel", looking.list_cves)
    add_kernel(listing)
    add_ranking(listing)
    _add_filters(listing)
    listing.add_argument("--openvex", action="store_true", help="print an OpenVEX document for scanners")

    show = _add(commands, "show", "everything that is known of one CVE", looking.show_cve)
    show.add_argument("id", metavar="CVE-ID")
    add_kernel(show)

    sums = _add(commands, "summary", "how many CVEs are in which state, and how many stay open", looking.summarize)
    add_kernel(sums)
    add_ranking(sums)

    index = _add(commands, "index", "make one small file of all records, or bring it up to date", keeping.make_index)
    index.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the index to write")

    update = commands.add_parser("update", help="fetch what the server knows about a kernel", allow_abbrev=False)
    update.add_argument("--kernel", metavar="RELEASE", help="`uname -r` of another host (default: of this one)")
    update.add_argument("-o", "--output", metavar="FILE", type=Path, help="save it here instead of keeping it")
    add_json(update)
    add_keep(update)
    add_limit(update)
    add_connection(update)
    update.set_defaults(run=keeping.update)

    plan = commands.add_parser("plan", help="what the policy would close, and what needs a reboot", allow_abbrev=False)
    planning.add_planning(plan)
    add_limit(plan)
    plan.set_defaults(run=planning.plan_cves)

    close = commands.add_parser(
        "close", help="close all that the policy chooses with one livepatch", allow_abbrev=False
    )
    planning.add_planning(close)
    add_limit(close)
    close.add_argument("-o", "--output", metavar="OUT.ko", type=Path, help="save it here instead of loading it")
    close.set_defaults(run=closing.close_cves)


def _add(commands: Subparsers, name: str, help_text: str, run: Command) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, allow_abbrev=False)
    add_records(parser)
    add_keep(parser)
    add_json(parser)
    parser.set_defaults(run=run)
    return parser


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        action="append",
        choices=[str(state) for state in State],
        help="only CVEs in this state (may be given more than once)",
    )
    parser.add_argument("--severity", choices=SEVERITIES, help="only CVEs of at least this severity")
    parser.add_argument("--exploited", action="store_true", help="only CVEs that the catalogue of --kev lists")
    certainties = [str(one) for one in Certainty]
    narrowed: tuple[tuple[str, str, list[str]], ...] = (
        ("--built", "whether this configuration builds the code", certainties),
        ("--loaded", "whether the code is loaded", certainties),
        ("--closed", "whether a livepatch closes it", ["yes", "no"]),
    )
    for option, what, choices in narrowed:
        parser.add_argument(option, nargs="?", const="yes", choices=choices, help=f"only by {what} (default: yes)")
    parser.add_argument("--open", action="store_true", help="only CVEs that are open on this kernel")
