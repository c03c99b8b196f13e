# SPDX-License-Identifier: GPL-2.0-or-later
"""CVEs of one kernel for `elivepatch cve list|show|summary`: from the cache or given files, without a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from elivepatch.advisory.exposure import report
from elivepatch.advisory.exposure.exposure import Exposure, ExposureSubject, expose
from elivepatch.advisory.exposure.openvex import openvex
from elivepatch.advisory.exposure.priority import Ranking
from elivepatch.advisory.exposure.summary import exposure_dict, funnel
from elivepatch.advisory.exposure.version import KernelVersion, parse_kernel_version
from elivepatch.advisory.records.record import CVE_ID, Record, Records, at_least
from elivepatch.client.cve.inputs import age_of, print_age, print_contradictions, ranking_of, records_of
from elivepatch.client.cve.kernel_under_test import KernelUnderTest, kernel_under_test, names_kernel
from elivepatch.client.cve.options import Filters, KernelOptions, ListOptions
from elivepatch.model.errors import UsageError
from elivepatch.output import Output

_TITLE = 72


def list_cves(options: ListOptions, output: Output) -> None:
    """Print every CVE that passes the filters, with its state on one kernel."""
    question = options.question
    kernel = kernel_under_test(question, output)
    subject, ranking = kernel.subject, ranking_of(question.ranking)
    records = records_of(question.records, question.cache, output)
    exposed = expose(records.effective(), subject)
    print_age(records, question.machine, output)
    print_contradictions(records, output)
    _print_last_known(exposed, subject.version, output)
    _require_known(options, subject)
    chosen = _ranked([one for one in exposed if _passes(one, options.filters, ranking)], ranking)
    if options.openvex:
        _print_openvex(chosen, kernel, output)
    elif output.as_json:
        dated = {"records_date": age_of(records, question.machine)["records_date"]}
        output.listing(exposure_dict(one, subject, ranking) | dated for one in chosen)
    else:
        _print_table(chosen, subject, output)
        output.line(f"{len(chosen)} of {len(exposed)} records{_dated(records)}, {kernel.title}")


def show_cve(options: KernelOptions, name: str, output: Output) -> None:
    """Print one record, and its meaning for a kernel if one is named or in the cache."""
    _require_id(name)
    kernel = kernel_under_test(options, output) if names_kernel(options) else None
    records = records_of(options.records, options.cache, output)
    record = find_record(records, name)
    print_age(records, options.machine, output)
    if record is None:
        output.document({"id": name, "state": "rejected"})
        output.line(f"{name} was rejected: the list has withdrawn it.")
        return
    document = report.record_dict(record) | {"ranges": report.ranges(record)} | age_of(records, options.machine)
    if kernel is not None:
        (exposed,) = expose([record], kernel.subject)
        ranking = Ranking(exploited={}, probability={})
        document |= {"kernel": str(kernel.subject.version)} | exposure_dict(exposed, kernel.subject, ranking)
    output.document(document)
    _print_record(document, output)


def _dated(records: Records) -> str:
    """Return the date of the newest record, in brackets; empty if it is not known."""
    return f" (the newest of {records.newest:%Y-%m-%d})" if records.newest is not None else ""


def find_record(records: Records, name: str) -> Record | None:
    """Return the record of a CVE, None if it was rejected; raises UsageError if there is none, or for no CVE's id."""
    _require_id(name)
    record = records.find(name)
    if record is None and name not in records.rejected:
        raise UsageError(
            "cve-unknown",
            f"The list has no record of {name}.",
            advice="It may be newer than these records, or no CVE of the kernel; an overrides file can add it.",
        )
    return record


def _require_id(name: str) -> None:
    if not CVE_ID.fullmatch(name):
        raise UsageError("cve-id", f"{name[:60]!r} is not the id of a CVE.", advice="Write it as CVE-2024-26768.")


def summarize(options: KernelOptions, output: Output) -> None:
    """Print how many CVEs are in which state, and the funnel from the version to the open ones."""
    kernel = kernel_under_test(options, output)
    subject, version = kernel.subject, kernel.subject.version
    ranking = ranking_of(options.ranking)
    records = records_of(options.records, options.cache, output)
    exposed = expose(records.effective(), subject)
    print_age(records, options.machine, output)
    print_contradictions(records, output)
    _print_last_known(exposed, version, output)
    sums = report.summary([one.assessment for one in exposed], version, ranking) | {"rejected": len(records.rejected)}
    sums |= age_of(records, options.machine)
    stages = funnel(exposed, subject)
    if subject.sources is not None or subject.modules is not None:
        sums |= {"release": kernel.release, "funnel": stages}
    output.document(sums)
    output.line(f"{kernel.title}: {sums['records']} records{_dated(records)}")
    for state, count in sums["states"].items():
        output.line(f"  {state:<14} {count:>6}")
    _print_affected(sums["affected"], KernelVersion(branch=version.branch), bool(ranking.exploited), output)
    if "funnel" in sums:
        print_funnel(stages, output)


def print_funnel(stages: dict[str, Any], output: Output) -> None:
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


def _passes(one: Exposure, filters: Filters, ranking: Ranking) -> bool:
    """Return whether a CVE passes every filter that is set."""
    return all(
        (
            not filters.states or one.assessment.state in filters.states,
            filters.severity is None or at_least(one.record.severity, filters.severity),
            not filters.exploited or one.record.id in ranking.exploited,
            filters.built is None or one.built.certainty == filters.built,
            filters.loaded is None or one.loaded.certainty == filters.loaded,
            filters.closed is None or (one.closed is not None) == filters.closed,
            not filters.open or one.open,
        )
    )


def _require_known(options: ListOptions, subject: ExposureSubject) -> None:
    """Raise UsageError for a filter that cannot be answered here: an empty list would read as no worry."""
    filters, lacking = options.filters, ""
    if (filters.built or filters.open) and subject.sources is None:
        lacking = "The sources that this kernel builds are not known."
    elif filters.loaded and subject.modules is None:
        lacking = "The loaded modules are not known: this is not the kernel of this host."
    elif filters.closed is not None and subject.closings is None:
        lacking = (
            "The CVEs that livepatches close are not known: this is not the kernel of this host, or its record cannot "
            "be read."
        )
    elif filters.exploited and options.question.ranking.kev is None:
        lacking = "The exploited CVEs are not known: no catalogue was given."
    if lacking:
        raise UsageError(
            "cve-filter",
            lacking,
            advice="Run `elivepatch cve update` on the host, give --sources FILE, or --kev FILE for --exploited.",
        )


def _ranked(exposed: Sequence[Exposure], ranking: Ranking) -> list[Exposure]:
    by_id = {one.record.id: one for one in exposed}
    return [by_id[answer.record.id] for answer in report.ranked([one.assessment for one in exposed], ranking)]


def _print_table(chosen: Sequence[Exposure], subject: ExposureSubject, output: Output) -> None:
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
    columns.append(("FIXED IN", lambda one: one.assessment.newer or one.assessment.evidence[0].fixed or "-"))
    columns.append(("TITLE", lambda one: one.record.title[:_TITLE]))
    rows = [[cell(one) for _, cell in columns] for one in chosen]
    output.table([name for name, _ in columns], rows)


def _print_openvex(chosen: Sequence[Exposure], kernel: KernelUnderTest, output: Output) -> None:
    if not chosen:
        raise UsageError(
            "cve-openvex", "An OpenVEX document needs at least one statement.", advice="Leave some filters out."
        )
    # OpenVEX is JSON: --openvex asks for it even without --json.
    Output(as_json=True, out=output.out, err=output.err).document(
        openvex(
            chosen,
            kernel.subject,
            author=f"elivepatch on {os.uname().nodename}",
            tool=f"elivepatch {version('elivepatch')}",
            at=datetime.now(tz=UTC),
        )
    )


def _print_affected(affected: dict[str, Any], branch: KernelVersion, kev: bool, output: Output) -> None:
    output.line("of the affected:")
    for severity, count in affected["severity"].items():
        output.line(f"  {'severity ' + severity:<30} {count:>6}")
    output.line(f"  {f'fixed in a later {branch}.y':<30} {affected['fix']['branch']:>6}")
    output.line(f"  {'fixed in mainline only':<30} {affected['fix']['mainline']:>6}")
    output.line(f"  {'without a fix':<30} {affected['fix']['none']:>6}")
    output.line(f"  {'in drivers/ and sound/ only':<30} {affected['drivers_only']:>6}")
    if kev:
        output.line(f"  {'known to be exploited':<30} {affected['exploited']:>6}")


def _print_last_known(exposed: Sequence[Exposure], kernel: KernelVersion, output: Output) -> None:
    """Print a note if the kernel is newer than every version of its branch in the records."""
    known = report.last_known((one.assessment for one in exposed), kernel)
    if not known:
        branch = KernelVersion(branch=kernel.branch)
        output.note(f"note: these records name no version of {branch}; if it is newer than they are, update them.")
    elif parse_kernel_version(known).order < kernel.order:
        output.note(f"note: these records know nothing newer than {known} of its branch; newer fixes are not seen.")


def _print_record(record: dict[str, Any], output: Output) -> None:
    output.line(f"{record['id']}  {record['title']}")
    score = "" if record["score"] is None else f" {record['score']} {record['vector']}"
    output.line(f"severity  {record['severity']}{score}")
    output.line(f"files     {' '.join(record['files']) or '-'}")
    if "overridden" in record:
        output.line(f"override  {record['overridden']}")
    for sentence in record.get("contradictions", ()):
        output.line(f"doubt     {sentence}")
    if "older" in record:
        output.line("from      linux_kernel_cves, not the kernel's own list")
    if "state" in record:
        output.line(f"state     {record['state']} on Linux {record['kernel']}")
        for evidence in record["evidence"]:
            output.line(f"because   {evidence['reason']}")
    for stage in ("built", "loaded"):
        if stage in record:
            output.line(f"{stage:<9} {record[stage]['certainty']}: {record[stage]['reason']}")
    if record.get("closed"):
        output.line(f"closed    by {record['closed']['by']}: {', '.join(record['closed']['functions']) or '-'}")
    if "fix" in record:
        reason = f": {record['fix']['reason']}" if "reason" in record["fix"] else ""
        output.line(f"fix       {record['fix']['outcome']}{reason}")
    rows = []
    for group in record["ranges"]:
        start = (group["introduced"] or "unknown", group["introduced_commit"][:12] or "-")
        rows += [(*start, fix["fixed"], fix["fixed_commit"][:12]) for fix in group["fixes"]] or [(*start, "-", "-")]
    if rows:
        output.line()
        output.table(("INTRODUCED", "BY", "FIXED", "BY"), rows)
