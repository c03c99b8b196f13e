# SPDX-License-Identifier: GPL-2.0-or-later
"""Affected rule: decides from commits and versions if a vanilla kernel has the bug of a record.

The rule looks at each introducing commit alone, because a bug can be fixed and come back. An introduction is present if
the kernel contains the version that brought it, and fixed if the kernel contains the version of one of its own fixes.
One introduction that is present and not fixed makes the kernel affected. docs/cve.md derives the rule.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from elivepatch.advisory.exposure.version import BEGINNING, KernelVersion, reached
from elivepatch.advisory.records.record import FixCommit, Introduction, Record


class State(enum.StrEnum):
    """State of one CVE in one version, by the list."""

    AFFECTED = "affected"
    FIXED = "fixed"  # an earlier version of this kernel's branch had the bug; this one has the fix
    NOT_AFFECTED = "not-affected"  # the bug never came into this version
    UNKNOWN = "unknown"  # the list does not decide it


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One introduction and its fix: versions and commits as the list has them, empty if it has none.

    For an affected kernel `fixed` is the fix to wait for or to build: that of its own branch if there is one, else
    the first mainline one.
    """

    introduced: str
    introduced_commit: str
    fixed: str
    fixed_commit: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """Return a JSON-ready mapping of the fields."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The state of one record on one kernel. `evidence` has each introduction that decided it, at least one."""

    record: Record
    state: State
    evidence: tuple[Evidence, ...]

    @property
    def fixed_in(self) -> tuple[str, ...]:
        """Every version that first contains a fix, oldest branch first."""
        versions = {fix.version.order: fix.version for group in self.record.introductions for fix in group.fixes}
        return tuple(str(versions[order]) for order in sorted(versions))


def assess(record: Record, kernel: KernelVersion) -> Assessment:
    """Apply the rule to one record.

    The state is unknown for a record with ranges that cannot be used, and for a release candidate of the very version
    that brought the bug or the fix.
    """
    if record.defect or not record.introductions:
        reason = record.defect or "The record names no range."
        nothing = Evidence(introduced="", introduced_commit="", fixed="", fixed_commit="", reason=reason)
        return Assessment(record=record, state=State.UNKNOWN, evidence=(nothing,))
    judged = [(group, *_judge(group, kernel)) for group in record.introductions]
    found = {state for _, state, _ in judged}
    state = next(state for state in (State.AFFECTED, State.UNKNOWN, State.FIXED, State.NOT_AFFECTED) if state in found)
    if state is State.NOT_AFFECTED:
        judged = [(_closest(record.introductions, kernel), state, None)]
    evidence = tuple(_explain(group, state, fix, kernel) for group, of, fix in judged if of is state)
    return Assessment(record=record, state=state, evidence=evidence)


def assess_all(records: Iterable[Record], kernel: KernelVersion) -> list[Assessment]:
    """Apply the rule to every record, in their order."""
    return [assess(record, kernel) for record in records]


def _judge(group: Introduction, kernel: KernelVersion) -> tuple[State, FixCommit | None]:
    """Return the state of one introduction, and the fix that decides it or leaves it open."""
    present = reached(group.version, kernel)
    if present is False:
        return State.NOT_AFFECTED, None
    perhaps: FixCommit | None = None
    for fix in group.fixes:
        # A fix older than the introduction closed an earlier appearance of the bug, not this one.
        if fix.version.order < group.version.order:
            continue
        contained = reached(fix.version, kernel)
        if contained:
            return State.FIXED, fix
        if contained is None:
            perhaps = fix
    if present is None or perhaps is not None:
        return State.UNKNOWN, perhaps
    return State.AFFECTED, _next_fix(group, kernel)


def _next_fix(group: Introduction, kernel: KernelVersion) -> FixCommit | None:
    """Return the fix that would close this introduction: in the kernel's branch, else the first in mainline."""
    later = [fix for fix in group.fixes if fix.version.order > kernel.order]
    own = [fix for fix in later if fix.version.branch == kernel.branch]
    return min(own or (fix for fix in later if fix.version.mainline), key=lambda fix: fix.version.order, default=None)


def _closest(groups: tuple[Introduction, ...], kernel: KernelVersion) -> Introduction:
    """Return the introduction a person would ask about: that of the kernel's branch, else the first mainline one."""
    own = [group for group in groups if group.version.branch == kernel.branch]
    mainline = [group for group in groups if group.version.mainline]
    return min(own or mainline or groups, key=lambda group: group.version.order)


def _explain(group: Introduction, state: State, fix: FixCommit | None, kernel: KernelVersion) -> Evidence:
    origin = f"introduced in {group.version}"
    if group.version == BEGINNING:
        origin = "introduced at an unknown time, so taken as always present"
    if state is State.NOT_AFFECTED:
        reason = f"{origin}, which {kernel} does not contain"
    elif state is State.UNKNOWN:
        came = f"fixed in {fix.version}" if fix else origin
        reason = f"{came}, and the list does not show whether {kernel} has that commit already"
    elif fix is None:
        reason = f"{origin}, and no fix is listed"
    elif state is State.FIXED or fix.version.branch == kernel.branch:
        reason = f"{origin}, fixed in {fix.version}"
    else:
        reason = f"{origin}, no fix in {KernelVersion(branch=kernel.branch)}.y, in mainline since {fix.version}"
    return Evidence(
        introduced=str(group.version),
        introduced_commit=group.commit,
        fixed=str(fix.version) if fix else "",
        fixed_commit=fix.commit if fix else "",
        reason=reason,
    )
