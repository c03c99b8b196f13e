# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve`: what the kernel's own CVE list says about a kernel version; needs neither host nor server."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from elivepatch.advisory import report
from elivepatch.advisory.collect import read_records
from elivepatch.advisory.index import is_index, read_index, write_index
from elivepatch.advisory.overrides import read_overrides
from elivepatch.advisory.ranking import Ranking, read_epss, read_kev
from elivepatch.advisory.record import CVE_ID, Findings, Records
from elivepatch.advisory.rule import Answer, State, answer, exposure
from elivepatch.advisory.version import KernelVersion, parse_kernel_version
from elivepatch.client.output import Output
from elivepatch.model.errors import ExitStatus, TrustError, UsageError

_NAMED = 10
_TITLE = 72


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cve` and its subcommands to the command line."""
    cve = subparsers.add_parser("cve", help="which CVEs a kernel version has", description=__doc__, allow_abbrev=False)
    commands = cve.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = commands.add_parser("list", help="every CVE with its state on one kernel version", allow_abbrev=False)
    _add_common(listing)
    _add_kernel(listing, required=True)
    _add_ranking(listing)
    listing.add_argument(
        "--state",
        action="append",
        choices=[str(state) for state in State],
        help="only CVEs in this state (may be given more than once)",
    )
    listing.set_defaults(run=list_cves)

    show = commands.add_parser("show", help="everything that is known of one CVE", allow_abbrev=False)
    show.add_argument("id", metavar="CVE-ID")
    _add_common(show)
    _add_kernel(show, required=False)
    show.set_defaults(run=show_cve)

    sums = commands.add_parser("summary", help="how many CVEs are in which state", allow_abbrev=False)
    _add_common(sums)
    _add_kernel(sums, required=True)
    _add_ranking(sums)
    sums.set_defaults(run=summarize)

    index = commands.add_parser(
        "index", help="make one small file of all records, or bring it up to date", allow_abbrev=False
    )
    _add_common(index)
    index.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the index to write")
    index.set_defaults(run=make_index)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records",
        metavar="SOURCE",
        type=Path,
        required=True,
        help="the kernel's CVE list: a clone, a directory, a .tar.xz, .tar.gz or .zip, or an index made by `cve index`",
    )
    parser.add_argument(
        "--overrides", metavar="FILE", type=Path, help="hand-kept records in TOML that go before the list"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _add_kernel(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--kernel", metavar="VERSION", required=required, help="a vanilla version such as 6.1.176, 7.0.5 or 7.1-rc3"
    )


def _add_ranking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kev", metavar="FILE", type=Path, help="catalogue of exploited CVEs (JSON); they come first")
    parser.add_argument("--epss", metavar="FILE", type=Path, help="EPSS scores (CSV, gzip or not) to order by")


def list_cves(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print every CVE with its state on one kernel version."""
    kernel = _kernel(arguments, output)
    ranking = _ranking(arguments)
    answers = exposure(_records(arguments, output).effective(), kernel)
    _tell_age(answers, kernel, output)
    wanted = set(arguments.state or State)
    chosen = [found for found in report.ranked(answers, ranking) if found.state in wanted]
    if output.as_json:
        output.document([report.answer_dict(found, ranking) for found in chosen])
        return ExitStatus.OK
    rows = [
        (
            found.record.id,
            found.state,
            found.record.severity,
            found.evidence[0].fixed or "-",
            found.record.title[:_TITLE],
        )
        for found in chosen
    ]
    output.table(("CVE", "STATE", "SEVERITY", "FIXED IN", "TITLE"), rows)
    output.line(f"{len(rows)} of {len(answers)} records, Linux {kernel}")
    return ExitStatus.OK


def show_cve(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print one record, and its state where a kernel version was given."""
    name: str = arguments.id
    if not CVE_ID.fullmatch(name):
        raise UsageError("cve-id", f"{name[:60]!r} is not the id of a CVE.", advice="Write it as CVE-2024-26768.")
    kernel = _kernel(arguments, output) if arguments.kernel else None
    records = _records(arguments, output)
    record = records.find(name)
    if record is None and name in records.rejected:
        output.document({"id": name, "state": "rejected"})
        output.line(f"{name} was rejected: the list has withdrawn it.")
        return ExitStatus.OK
    if record is None:
        raise UsageError(
            "cve-unknown",
            f"The list has no record of {name}.",
            advice="It may be newer than these records, or no CVE of the kernel; an overrides file can add it.",
        )
    told = report.record_dict(record) | {"ranges": report.ranges(record)}
    if kernel is not None:
        found = answer(record, kernel)
        told |= {"kernel": str(kernel)} | report.answer_dict(found, Ranking(exploited={}, probability={}))
    output.document(told)
    _print_record(told, output)
    return ExitStatus.OK


def summarize(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print how many CVEs are in which state, and of the affected ones where their fix is."""
    kernel = _kernel(arguments, output)
    ranking = _ranking(arguments)
    records = _records(arguments, output)
    answers = exposure(records.effective(), kernel)
    _tell_age(answers, kernel, output)
    sums = report.summary(answers, kernel, ranking) | {"rejected": len(records.rejected)}
    output.document(sums)
    branch = KernelVersion(branch=kernel.branch)
    affected = sums["affected"]
    output.line(f"Linux {kernel}: {sums['records']} records")
    for state, count in sums["states"].items():
        output.line(f"  {state:<14} {count:>6}")
    output.line("of the affected:")
    for severity, count in affected["severity"].items():
        output.line(f"  {'severity ' + severity:<30} {count:>6}")
    output.line(f"  {f'fixed in a later {branch}.y':<30} {affected['fix']['branch']:>6}")
    output.line(f"  {'fixed in mainline only':<30} {affected['fix']['mainline']:>6}")
    output.line(f"  {'without a fix':<30} {affected['fix']['none']:>6}")
    output.line(f"  {'in drivers/ and sound/ only':<30} {affected['drivers_only']:>6}")
    if ranking.exploited:
        output.line(f"  {'known to be exploited':<30} {affected['exploited']:>6}")
    return ExitStatus.OK


def make_index(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Write an index, reading only what has changed where one is there already."""
    previous = None
    if is_index(arguments.output):
        try:
            previous = read_index(arguments.output)
        except (UsageError, TrustError) as error:
            output.note(f"note: {error.problem.message} It is made anew.")
    records = _records(arguments, output, previous)
    size = write_index(records, arguments.output)
    known = previous.listed if previous is not None else {}
    unchanged = sum(known.get(name) is record for name, record in records.listed.items())
    output.document(
        {
            "file": str(arguments.output),
            "size_bytes": size,
            "records": len(records.listed),
            "unchanged": unchanged,
            "overrides": len(records.overrides),
            "rejected": len(records.rejected),
            "set_aside": dict(records.findings.counts),
            "findings": [asdict(found) for found in records.findings.named],
        }
    )
    output.line(
        f"{arguments.output}: {len(records.listed)} records ({unchanged} unchanged), {len(records.rejected)} rejected, "
        f"{len(records.overrides)} overrides, {records.findings.total} findings, {size / 1e6:.1f} MB"
    )
    return ExitStatus.OK


def _kernel(arguments: argparse.Namespace, output: Output) -> KernelVersion:
    kernel = parse_kernel_version(arguments.kernel)
    if arguments.kernel != str(kernel):
        output.note(
            f"note: {arguments.kernel} is read as the mainline release {kernel}; "
            "distributions call their kernels .0 whatever they are built from."
        )
    return kernel


def _records(arguments: argparse.Namespace, output: Output, previous: Records | None = None) -> Records:
    source: Path = arguments.records
    records = (
        read_index(source) if is_index(source) else read_records(source, progress=output.progress, previous=previous)
    )
    _tell_findings(records.findings, output)
    if arguments.overrides is not None:
        return replace(records, overrides=read_overrides(arguments.overrides, records.listed))
    return records


def _ranking(arguments: argparse.Namespace) -> Ranking:
    return Ranking(
        exploited=read_kev(arguments.kev) if arguments.kev else {},
        probability=read_epss(arguments.epss) if arguments.epss else {},
    )


def _tell_findings(findings: Findings, output: Output) -> None:
    """Name on standard error what was set aside, so that an answer never looks more complete than it is."""
    for found in findings.named[:_NAMED]:
        output.note(f"note: {found.name}: {found.message} [{found.code}]")
    if findings.total > _NAMED:
        counts = ", ".join(f"{count} {code}" for code, count in findings.counts.most_common())
        output.note(f"note: {findings.total} findings in all: {counts}; `elivepatch cve index --json` names them.")


def _tell_age(answers: list[Answer], kernel: KernelVersion, output: Output) -> None:
    """Say so where the kernel is newer than everything the records know of its branch."""
    known = report.last_known(answers, kernel)
    if not known:
        branch = KernelVersion(branch=kernel.branch)
        output.note(f"note: these records name no version of {branch}; if it is newer than they are, update them.")
    elif parse_kernel_version(known).order < kernel.order:
        output.note(f"note: these records know nothing newer than {known} of its branch; newer fixes are not seen.")


def _print_record(told: dict[str, Any], output: Output) -> None:
    output.line(f"{told['id']}  {told['title']}")
    score = "" if told["score"] is None else f" {told['score']} {told['vector']}"
    output.line(f"severity  {told['severity']}{score}")
    output.line(f"files     {' '.join(told['files']) or '-'}")
    if "overridden" in told:
        output.line(f"override  {told['overridden']}")
    if "state" in told:
        output.line(f"state     {told['state']} on Linux {told['kernel']}")
        for evidence in told["evidence"]:
            output.line(f"because   {evidence['reason']}")
    rows = []
    for group in told["ranges"]:
        start = (group["introduced"] or "unknown", group["introduced_commit"][:12] or "-")
        rows += [(*start, fix["fixed"], fix["fixed_commit"][:12]) for fix in group["fixes"]] or [(*start, "-", "-")]
    if rows:
        output.line()
        output.table(("INTRODUCED", "BY", "FIXED", "BY"), rows)
