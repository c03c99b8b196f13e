# SPDX-License-Identifier: GPL-2.0-or-later
"""Refresh of an index from the source of its records: only changed records are read and written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.index import is_index, read_index, write_index
from elivepatch.advisory.records.legacy_records import with_older
from elivepatch.advisory.records.overrides import read_overrides
from elivepatch.advisory.records.record import Findings, Records
from elivepatch.model.errors import TrustError, UsageError
from elivepatch.model.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """An index after a refresh: its records, its size in bytes, and how many records did not change.

    `rebuilt_because` says why the old index could not be updated in place, empty if it was. `beside` are the
    findings about older records.
    """

    records: Records
    size: int
    unchanged: int
    rebuilt_because: str
    beside: Findings

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping: the counts and the findings."""
        of = self.records
        return {
            "size_bytes": self.size,
            "records": len(of.listed),
            "unchanged": self.unchanged,
            "older": sum(record.older for record in of.listed.values()),
            "overrides": len(of.overrides),
            "rejected": len(of.rejected),
            "set_aside": dict(of.findings.counts + self.beside.counts),
            "findings": [asdict(found) for found in (*of.findings.named, *self.beside.named)],
        }

    @property
    def sentence(self) -> str:
        """The counts for people."""
        counts = self.as_dict()
        return (
            f"{counts['records']} records ({counts['unchanged']} unchanged, {counts['older']} older), "
            f"{counts['rejected']} rejected, {counts['overrides']} overrides, "
            f"{sum(counts['set_aside'].values())} findings, {self.size / 1e6:.1f} MB"
        )


def refresh_index(
    file: Path, source: Path, *, older: Path | None, overrides: Path | None, progress: Progress
) -> Refreshed:
    """Make `file` the index of the records in `source`, with the older and the overriding ones.

    `source` is any source that read_records takes, or an index. Raises the errors of reading and writing; the old index
    is untouched then.
    """
    previous, rebuilt_because = None, ""
    if is_index(file):
        try:
            previous = read_index(file)
        except (UsageError, TrustError) as error:
            rebuilt_because = error.problem.message
    records = read_index(source) if is_index(source) else read_records(source, progress=progress, previous=previous)
    beside = Findings()
    if older is not None:
        records = with_older(records, older, beside)
    if overrides is not None:
        records = replace(records, overrides=read_overrides(overrides, records.listed))
    known = previous.listed if previous is not None else {}
    same = previous is not None and replace(records, findings=previous.findings) == previous
    return Refreshed(
        records=records,
        size=file.stat().st_size if same else write_index(records, file),
        unchanged=sum(known.get(name) == record for name, record in records.listed.items()),
        rebuilt_because=rebuilt_because,
        beside=beside,
    )
