# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve`: list the CVEs of a kernel, and close them without a reboot."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty
from elivepatch.advisory.records.record import SEVERITIES
from elivepatch.client.commands.connection import (
    add_base_patches,
    add_connection,
    add_limit,
    base_patch_options,
    server_options,
)
from elivepatch.client.commands.options import add_json
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.client.cve.close import close_cves
from elivepatch.client.cve.closed import is_closed
from elivepatch.client.cve.inputs import make_index, server_time_limit, update_cache
from elivepatch.client.cve.options import (
    CloseOptions,
    Filters,
    IndexOptions,
    KernelOptions,
    ListOptions,
    PlanOptions,
    RankingOptions,
    RecordOptions,
    UpdateOptions,
)
from elivepatch.client.cve.plan import open_plan, print_plan
from elivepatch.client.cve.show import list_cves, show_cve, summarize
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.options import SETTINGS_FILE
from elivepatch.client.server.base_patches import base_patches_of
from elivepatch.client.server.connection import settings_of
from elivepatch.commandline import Command, Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.model.kernel import parse_release
from elivepatch.output import Output
from elivepatch.settings import ClientSettings

POLICY_FILE = "etc/elivepatch/policy.toml"


def register(subparsers: Subparsers) -> None:
    """Add `cve` and its subcommands to the command line."""
    cve = subparsers.add_parser(
        "cve", help="list and close the CVEs of a kernel", description=__doc__, allow_abbrev=False
    )
    commands = cve.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = _add(commands, "list", "every CVE with its state on one kernel", _list)
    _add_kernel(listing)
    _add_ranking(listing)
    _add_filters(listing)
    listing.add_argument("--openvex", action="store_true", help="print an OpenVEX document for scanners")

    show = _add(commands, "show", "everything that is known about one CVE", _show)
    show.add_argument("id", metavar="CVE-ID")
    _add_kernel(show)

    closed = _add(commands, "closed", "status 0 if a CVE is closed on this host's kernel, 1 if it is open", _closed)
    closed.add_argument("id", metavar="CVE-ID")

    sums = _add(commands, "summary", "how many CVEs are in which state, and how many stay open", _summary)
    _add_kernel(sums)
    _add_ranking(sums)

    index = _add(commands, "index", "make one small file of all records, or bring it up to date", _index)
    index.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the index to write")

    update = commands.add_parser("update", help="fetch what the server knows about a kernel", allow_abbrev=False)
    update.add_argument("--kernel", metavar="RELEASE", help="`uname -r` of another host (default: this one's)")
    update.add_argument("-o", "--output", metavar="FILE", type=Path, help="save it here instead of in the cache")
    add_json(update)
    add_cache(update)
    add_limit(update)
    add_connection(update)
    update.set_defaults(run=_update)

    plan = commands.add_parser("plan", help="what the policy would close, and what needs a reboot", allow_abbrev=False)
    add_planning(plan)
    add_limit(plan)
    plan.set_defaults(run=_plan)

    close = commands.add_parser(
        "close", help="close all CVEs that the policy chooses with one livepatch", allow_abbrev=False
    )
    add_planning(close)
    add_limit(close)
    close.add_argument("-o", "--output", metavar="OUT.ko", type=Path, help="save it here instead of loading it")
    close.set_defaults(run=_close)


def add_planning(parser: argparse.ArgumentParser, *, other_kernels: bool = True) -> None:
    """Add the options of every command that plans; with `other_kernels`, for kernels of other hosts too."""
    parser.add_argument(
        "--policy", metavar="FILE", type=Path, help=f"the CVEs to close and the places that fixes may come from "
        f"(default: /{POLICY_FILE}; docs/closing.md)",
    )  # fmt: skip
    if other_kernels:
        parser.add_argument("--kernel", metavar="RELEASE", help="`uname -r` of another host (default: this one's)")
    add_json(parser)
    _add_records(parser)
    add_cache(parser)
    add_base_patches(parser)
    add_connection(parser)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the directory of the cache."""
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help=f"the cache of records, sources and verdicts (default: /{DIRECTORY})"
    )


def cache_of(arguments: argparse.Namespace, machine: Machine) -> CveCache:
    """Return the cache that --keep names, else this host's own."""
    return CveCache(arguments.keep or machine.host.path(DIRECTORY))


def plan_options(arguments: argparse.Namespace, release: str | None = None) -> PlanOptions:
    """Return the options of a plan; `release` is that of another host's kernel.

    Raises UsageError or HostError if a file that the arguments name cannot be read.
    """
    machine = machines.this_machine()
    kernel = None if release is None else parse_release(release)
    return PlanOptions(
        machine=machine,
        cache=cache_of(arguments, machine),
        settings=_settings(arguments, machine),
        policy=arguments.policy or machine.host.path(POLICY_FILE),
        records=_record_options(arguments),
        base_patches=base_patches_of(base_patch_options(arguments), kernel or read_release(machine.host)),
        release=kernel,
    )


def _list(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    filters = Filters(
        states=frozenset(State(state) for state in arguments.state or ()),
        severity=arguments.severity,
        exploited=arguments.exploited,
        built=Certainty(arguments.built) if arguments.built else None,
        loaded=Certainty(arguments.loaded) if arguments.loaded else None,
        closed=arguments.closed == "yes" if arguments.closed else None,
        open=arguments.open,
    )
    question = _question(arguments, _ranking_options(arguments))
    list_cves(ListOptions(question=question, filters=filters, openvex=arguments.openvex), output)
    return ExitStatus.OK


def _show(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    show_cve(_question(arguments, RankingOptions()), arguments.id, output)
    return ExitStatus.OK


def _closed(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    machine = machines.this_machine()
    cache, records = cache_of(arguments, machine), _record_options(arguments)
    return is_closed(KernelOptions(machine=machine, cache=cache, records=records), arguments.id, output)


def _summary(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    summarize(_question(arguments, _ranking_options(arguments)), output)
    return ExitStatus.OK


def _index(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    machine = machines.this_machine()
    cache, records = cache_of(arguments, machine), _record_options(arguments)
    make_index(IndexOptions(machine=machine, cache=cache, output=arguments.output, records=records), output)
    return ExitStatus.OK


def _update(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    machine = machines.this_machine()
    options = UpdateOptions(
        machine=machine,
        cache=cache_of(arguments, machine),
        settings=_settings(arguments, machine),
        release=None if arguments.kernel is None else parse_release(arguments.kernel),
        output=arguments.output,
    )
    update_cache(options, output)
    return ExitStatus.OK


def _plan(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    options = plan_options(arguments, arguments.kernel)
    with server_time_limit(options.settings), open_plan(options, output) as session:
        print_plan(session, output)
        session.require_complete()
    return ExitStatus.OK


def _close(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    plan = plan_options(arguments, arguments.kernel)
    close_cves(CloseOptions(plan=plan, output=arguments.output), output)
    return ExitStatus.OK


def _question(arguments: argparse.Namespace, ranking: RankingOptions) -> KernelOptions:
    machine = machines.this_machine()
    return KernelOptions(
        machine=machine,
        cache=cache_of(arguments, machine),
        kernel=arguments.kernel,
        sources=arguments.sources,
        records=_record_options(arguments),
        ranking=ranking,
    )


def _ranking_options(arguments: argparse.Namespace) -> RankingOptions:
    return RankingOptions(kev=arguments.kev, epss=arguments.epss)


def _record_options(arguments: argparse.Namespace) -> RecordOptions:
    return RecordOptions(source=arguments.records, older=arguments.older, overrides=arguments.overrides)


def _settings(arguments: argparse.Namespace, machine: Machine) -> ClientSettings:
    return settings_of(server_options(arguments), environ=os.environ, file=machine.host.path(SETTINGS_FILE))


def _add(commands: Subparsers, name: str, help_text: str, run: Command) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, allow_abbrev=False)
    _add_records(parser)
    add_cache(parser)
    add_json(parser)
    parser.set_defaults(run=run)
    return parser


def _add_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records",
        metavar="SOURCE",
        type=Path,
        help="the kernel's CVE list: a clone, a directory, a .tar.xz, .tar.gz or .zip, or an index made by `cve index` "
        "(default: the cache of this host)",
    )
    parser.add_argument(
        "--older",
        metavar="DIR",
        type=Path,
        help="kernel_cves.json and stream_fixes.json of linux_kernel_cves: CVEs from before the kernel's own list",
    )
    parser.add_argument(
        "--overrides", metavar="FILE", type=Path, help="your own records in TOML that override those of the list"
    )


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel",
        metavar="KERNEL",
        help="a vanilla version such as 6.1.176, 7.0.5 or 7.1-rc3, or a release that `cve update --kernel` fetched "
        "(default: the kernel of this host)",
    )
    parser.add_argument(
        "--sources", metavar="FILE", type=Path, help="the sources that a kernel was built from, saved by `cve update`"
    )


def _add_ranking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kev", metavar="FILE", type=Path, help="catalogue of exploited CVEs (JSON); they come first")
    parser.add_argument("--epss", metavar="FILE", type=Path, help="EPSS scores (CSV, gzip or not) to order by")


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
        ("--built", "whose code this configuration builds, or not", certainties),
        ("--loaded", "whose code is loaded, or not", certainties),
        ("--closed", "that a livepatch closes, or not", ["yes", "no"]),
    )
    for option, what, choices in narrowed:
        parser.add_argument(option, nargs="?", const="yes", choices=choices, help=f"only CVEs {what} (default: yes)")
    parser.add_argument("--open", action="store_true", help="only CVEs that are open on this kernel")
