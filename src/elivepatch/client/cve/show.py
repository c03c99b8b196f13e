# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve list|show|summary`: what is open on a kernel, from what is kept or given, without a network."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from elivepatch.advisory.exposure import report
from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty, Exposure, ExposureSubject, expose
from elivepatch.advisory.exposure.openvex import openvex
from elivepatch.advisory.exposure.ranking import Ranking
from elivepatch.advisory.exposure.summary import exposure_dict, funnel
from elivepatch.advisory.exposure.version import KernelVersion, parse_kernel_version
from elivepatch.advisory.records.record import CVE_ID, at_least
from elivepatch.client.cve.inputs import effective_records, ranking_of, records_of
from elivepatch.client.cve.kernel_under_test import KernelUnderTest, is_named, question
from elivepatch.model.errors import ExitStatus, UsageError
from elivepatch.output import Output

_TITLE = 72


def list_cves(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print every CVE with its state on one kernel, narrowed as asked."""
    asked = question(arguments, output)
    ranking = ranking_of(arguments)
    exposed = expose(effective_records(arguments, output), asked.subject)
    _tell_age(exposed, asked.subject.version, output)
    chosen = _ranked([one for one in exposed if _wanted(one, arguments, asked, ranking)], ranking)
    if arguments.openvex:
        _tell_openvex(chosen, asked, output)
    elif output.as_json:
        output.listing(exposure_dict(one, asked.subject, ranking) for one in chosen)
    else:
        _tell_table(chosen, asked.subject, output)
        output.line(f"{len(chosen)} of {len(exposed)} records, {asked.title}")
    return ExitStatus.OK


def show_cve(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print one record, and what it means for the kernel where one is named or kept."""
    name: str = arguments.id
    if not CVE_ID.fullmatch(name):
        raise UsageError("cve-id", f"{name[:60]!r} is not the id of a CVE.", advice="Write it as CVE-2024-26768.")
    asked = question(arguments, output) if is_named(arguments) else None
    records = records_of(arguments, output)
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
    if asked is not None:
        (exposed,) = expose([record], asked.subject)
        ranking = Ranking(exploited={}, probability={})
        told |= {"kernel": str(asked.subject.version)} | exposure_dict(exposed, asked.subject, ranking)
    output.document(told)
    _print_record(told, output)
    return ExitStatus.OK


def summarize(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print how many CVEs are in which state, and the funnel from the version to what is open."""
    asked = question(arguments, output)
    ranking = ranking_of(arguments)
    records = records_of(arguments, output)
    exposed = expose(records.effective(), asked.subject)
    kernel = asked.subject.version
    _tell_age(exposed, kernel, output)
    sums = report.summary([one.assessment for one in exposed], kernel, ranking) | {"rejected": len(records.rejected)}
    stages = funnel(exposed, asked.subject)
    if asked.subject.sources is not None or asked.subject.modules is not None:
        sums |= {"release": asked.release, "funnel": stages}
    output.document(sums)
    output.line(f"{asked.title}: {sums['records']} records")
    for state, count in sums["states"].items():
        output.line(f"  {state:<14} {count:>6}")
    _tell_affected(sums["affected"], KernelVersion(branch=kernel.branch), bool(ranking.exploited), output)
    if "funnel" in sums:
        tell_funnel(stages, output)
    return ExitStatus.OK


def tell_funnel(stages: dict[str, Any], output: Output) -> None:
    """Print the funnel for people."""
    output.line("on this kernel:")
    lines: list[tuple[str, int, str]] = [("affected, or perhaps", stages["affected"] + stages["unknown"], "")]
    if "built" in stages:
        built = stages["built"]
        sure = f"{built['yes']} for certain; {built['no']} are not in this configuration"
        lines.append(("built", built["yes"] + built["unknown"], sure))
    if "loaded" in stages:
        loaded = stages["loaded"]
        lines.append(("loaded", loaded["yes"] + loaded["unknown"], f"{loaded['no']} in modules that are not loaded"))
    if "closed" in stages:
        lines.append(("closed by livepatches", stages["closed"], ""))
    if "open" in stages:
        fixes = stages["fixes"]
        known = (
            f"convertible {fixes['convertible']}, needs a reboot {fixes['needs-reboot']}, untried {fixes['untried']}"
        )
        lines.append(("open", stages["open"], f"fixes: {known}"))
    for what, count, note in lines:
        output.line(f"  {what:<30} {count:>6}{f'   ({note})' if note else ''}")


def _wanted(one: Exposure, arguments: argparse.Namespace, asked: KernelUnderTest, ranking: Ranking) -> bool:
    _require_told(arguments, asked.subject)
    checks: list[Callable[[], bool]] = []
    if arguments.state:
        checks.append(lambda: one.assessment.state in {State(state) for state in arguments.state})
    if arguments.severity:
        checks.append(lambda: at_least(one.record.severity, arguments.severity))
    if arguments.exploited:
        checks.append(lambda: one.record.id in ranking.exploited)
    if arguments.built:
        checks.append(lambda: one.built.certainty == Certainty(arguments.built))
    if arguments.loaded:
        checks.append(lambda: one.loaded.certainty == Certainty(arguments.loaded))
    if arguments.closed:
        checks.append(lambda: (one.closed is not None) == (arguments.closed == "yes"))
    if arguments.open:
        checks.append(lambda: one.open)
    return all(check() for check in checks)


def _require_told(arguments: argparse.Namespace, subject: ExposureSubject) -> None:
    """Raise UsageError for a filter that nothing here can answer: an empty list would read as no worry."""
    lacking = ""
    if (arguments.built or arguments.open) and subject.sources is None:
        lacking = "what this kernel builds"
    elif arguments.loaded and subject.modules is None:
        lacking = "what is loaded: this is not the kernel of this host"
    elif arguments.closed and subject.closings is None:
        lacking = "what livepatches close: this is not the kernel of this host, or its record may not be read"
    elif arguments.exploited and arguments.kev is None:
        lacking = "what is exploited: no catalogue was given"
    if lacking:
        raise UsageError(
            "cve-filter",
            f"Nobody told {lacking}.",
            advice="Run `elivepatch cve update` on the host, give --sources FILE, or --kev FILE for --exploited.",
        )


def _ranked(exposed: Sequence[Exposure], ranking: Ranking) -> list[Exposure]:
    by_id = {one.record.id: one for one in exposed}
    return [by_id[answer.record.id] for answer in report.ranked([one.assessment for one in exposed], ranking)]


def _tell_table(chosen: Sequence[Exposure], subject: ExposureSubject, output: Output) -> None:
    columns: list[tuple[str, Callable[[Exposure], object]]] = [
        ("CVE", lambda one: one.record.id),
        ("STATE", lambda one: one.assessment.state),
        ("SEVERITY", lambda one: one.record.severity),
    ]
    if subject.sources is not None:
        columns.append(("BUILT", lambda one: one.built.certainty))
    if subject.modules is not None:
        columns.append(("LOADED", lambda one: one.loaded.certainty))
    if subject.closings is not None:
        columns.append(("CLOSED BY", lambda one: one.closed.reason[:60] if one.closed is not None else "-"))
    columns.append(("FIXED IN", lambda one: one.assessment.evidence[0].fixed or "-"))
    columns.append(("TITLE", lambda one: one.record.title[:_TITLE]))
    rows = [[cell(one) for _, cell in columns] for one in chosen]
    output.table([name for name, _ in columns], rows)


def _tell_openvex(chosen: Sequence[Exposure], asked: KernelUnderTest, output: Output) -> None:
    if not chosen:
        raise UsageError(
            "cve-openvex", "An OpenVEX document needs at least one statement.", advice="Leave some filters out."
        )
    # The document is JSON whether or not --json was given: nothing else is asked for with --openvex.
    output.as_json = True
    output.document(
        openvex(
            chosen,
            asked.subject,
            author=f"elivepatch on {os.uname().nodename}",
            tool=f"elivepatch {version('elivepatch')}",
            at=datetime.now(tz=UTC),
        )
    )


def _tell_affected(affected: dict[str, Any], branch: KernelVersion, kev: bool, output: Output) -> None:
    output.line("of the affected:")
    for severity, count in affected["severity"].items():
        output.line(f"  {'severity ' + severity:<30} {count:>6}")
    output.line(f"  {f'fixed in a later {branch}.y':<30} {affected['fix']['branch']:>6}")
    output.line(f"  {'fixed in mainline only':<30} {affected['fix']['mainline']:>6}")
    output.line(f"  {'without a fix':<30} {affected['fix']['none']:>6}")
    output.line(f"  {'in drivers/ and sound/ only':<30} {affected['drivers_only']:>6}")
    if kev:
        output.line(f"  {'known to be exploited':<30} {affected['exploited']:>6}")


def _tell_age(exposed: Sequence[Exposure], kernel: KernelVersion, output: Output) -> None:
    """Say so where the kernel is newer than everything the records know of its branch."""
    known = report.last_known((one.assessment for one in exposed), kernel)
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
    if "older" in told:
        output.line("from      linux_kernel_cves, not the kernel's own list")
    if "state" in told:
        output.line(f"state     {told['state']} on Linux {told['kernel']}")
        for evidence in told["evidence"]:
            output.line(f"because   {evidence['reason']}")
    for stage in ("built", "loaded"):
        if stage in told:
            output.line(f"{stage:<9} {told[stage]['certainty']}: {told[stage]['reason']}")
    if told.get("closed"):
        output.line(f"closed    by {told['closed']['by']}: {', '.join(told['closed']['functions']) or '-'}")
    if "fix" in told:
        reason = f": {told['fix']['reason']}" if "reason" in told["fix"] else ""
        output.line(f"fix       {told['fix']['outcome']}{reason}")
    rows = []
    for group in told["ranges"]:
        start = (group["introduced"] or "unknown", group["introduced_commit"][:12] or "-")
        rows += [(*start, fix["fixed"], fix["fixed_commit"][:12]) for fix in group["fixes"]] or [(*start, "-", "-")]
    if rows:
        output.line()
        output.table(("INTRODUCED", "BY", "FIXED", "BY"), rows)
