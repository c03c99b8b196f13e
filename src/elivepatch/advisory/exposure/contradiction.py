# SPDX-License-Identifier: GPL-2.0-or-later
"""Contradictions inside a record: versions for which its commits and its published version ranges differ.

Both are constant between two versions at which either of them changes. So one look at each of these answers for every
version that there is.
"""

from __future__ import annotations

from elivepatch.advisory.exposure.affected import State, state_of
from elivepatch.advisory.exposure.version import BEGINNING, KernelVersion, next_release
from elivepatch.advisory.records.published_ranges import FIRST_COMMIT, PublishedRanges
from elivepatch.advisory.records.record import Contradiction, Record


def contradictions(record: Record, published: PublishedRanges) -> tuple[Contradiction, ...]:
    """Return all versions for which the record's commits and version ranges differ; none if it lacks one of both."""
    if record.defect or not record.introductions or not published.blocks:
        return ()
    found: list[Contradiction] = []
    borders = _borders(record, published)
    for at, first in enumerate(borders):
        by_commits = state_of(record, first) is State.AFFECTED
        by_ranges = published.affected(first)
        if by_commits == by_ranges:
            continue
        end = borders[at + 1] if at + 1 < len(borders) else None
        alone = by_ranges and not published.cleared(first)
        if found and found[-1].end == first and (found[-1].affected, found[-1].alone) == (by_ranges, alone):
            first = found.pop().first
        found.append(Contradiction(first, end, by_ranges, alone))
    return tuple(found)


def commit_doubt(record: Record, published: PublishedRanges) -> str:
    """Return one sentence if the record's JSON has commits that its ranges lack, empty if not.

    Commits that the JSON alone lacks leave no doubt: the answer is made of all of them.
    """
    if record.defect:
        return ""
    listed = {
        (group.commit or FIRST_COMMIT, fix)
        for group in record.introductions
        for fix in ([one.commit for one in group.fixes] or [""])
    }
    lacking = sorted(end or begin for begin, end in published.commits - listed)
    return f"Its JSON names {lacking[0][:12]}, which its ranges lack." if lacking else ""


def _borders(record: Record, published: PublishedRanges) -> list[KernelVersion]:
    """Return every release at which an answer can change, the oldest first."""
    found = set(published.borders())
    for group in record.introductions:
        for version in (group.version, *(fix.version for fix in group.fixes)):
            found |= {version, next_release(version)}
    # A candidate is no release: the list names none, and a scanner's range has no place for one.
    releases = {
        one if one.rc is None else KernelVersion(branch=one.branch, level=one.level) for one in found if one.branch
    }
    return sorted(releases | {next_release(BEGINNING)}, key=lambda version: version.order)
