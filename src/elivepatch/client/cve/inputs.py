# SPDX-License-Identifier: GPL-2.0-or-later
"""The records and rankings that a command works with: given, or kept on this host."""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace
from pathlib import Path

from elivepatch.advisory.exposure.ranking import Ranking, read_epss, read_kev
from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.index import is_index, read_index
from elivepatch.advisory.records.legacy_records import with_older
from elivepatch.advisory.records.overrides import read_overrides
from elivepatch.advisory.records.record import Findings, Record, Records
from elivepatch.client.cve.kernel_under_test import kept
from elivepatch.model.errors import UsageError
from elivepatch.output import Output

_NAMED = 10
_MANY = 500_000


def add_records(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the records come from."""
    parser.add_argument(
        "--records",
        metavar="SOURCE",
        type=Path,
        help="the kernel's CVE list: a clone, a directory, a .tar.xz, .tar.gz or .zip, or an index made by `cve index` "
        "(default: what is kept on this host)",
    )
    parser.add_argument(
        "--older",
        metavar="DIR",
        type=Path,
        help="kernel_cves.json and stream_fixes.json of linux_kernel_cves: CVEs from before the kernel's own list",
    )
    parser.add_argument(
        "--overrides", metavar="FILE", type=Path, help="hand-kept records in TOML that go before the list"
    )


def add_ranking(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what ranks CVEs."""
    parser.add_argument("--kev", metavar="FILE", type=Path, help="catalogue of exploited CVEs (JSON); they come first")
    parser.add_argument("--epss", metavar="FILE", type=Path, help="EPSS scores (CSV, gzip or not) to order by")


def records_of(arguments: argparse.Namespace, output: Output) -> Records:
    """Return the records with what is put beside them; what was set aside is told on standard error.

    Raises UsageError where none are given or kept.
    """
    source = source_of(arguments)
    # Hundred thousands of objects that live until the end: looking for cycles among them takes a tenth of a second.
    gc.set_threshold(_MANY)
    records = read_index(source) if is_index(source) else read_records(source, progress=output.progress)
    return completed(records, arguments, output)


def source_of(arguments: argparse.Namespace) -> Path:
    """Return where the records are: what was given, else the index that is kept; raises UsageError where none is."""
    return arguments.records if arguments.records is not None else _kept_records(arguments)


def completed(records: Records, arguments: argparse.Namespace, output: Output) -> Records:
    """Return the records with older and hand-kept ones, and tell what was set aside while they were read."""
    tell_findings(records.findings, output)
    if arguments.older is not None:
        beside = Findings()
        records = with_older(records, arguments.older, beside)
        tell_findings(beside, output)
    if arguments.overrides is not None:
        records = replace(records, overrides=read_overrides(arguments.overrides, records.listed))
    return records


def effective_records(arguments: argparse.Namespace, output: Output) -> list[Record]:
    """Return the records that count."""
    return records_of(arguments, output).effective()


def ranking_of(arguments: argparse.Namespace) -> Ranking:
    """Return what ranks CVEs."""
    return Ranking(
        exploited=read_kev(arguments.kev) if arguments.kev else {},
        probability=read_epss(arguments.epss) if arguments.epss else {},
    )


def _kept_records(arguments: argparse.Namespace) -> Path:
    file = kept(arguments).records
    if not is_index(file):
        raise UsageError(
            "cve-records-missing",
            "No records are kept here.",
            advice="Give the kernel's CVE list with --records, fetch them from a server with `elivepatch cve update`, "
            f"or make {file} with `elivepatch cve index`.",
        )
    return file


def tell_findings(findings: Findings, output: Output) -> None:
    """Name on standard error what was set aside, so that an answer never looks more complete than it is."""
    for found in findings.named[:_NAMED]:
        output.note(f"note: {found.name}: {found.message} [{found.code}]")
    if findings.total > _NAMED:
        counts = ", ".join(f"{count} {code}" for code, count in findings.counts.most_common())
        output.note(f"note: {findings.total} findings in all: {counts}; `elivepatch cve index --json` names them.")
