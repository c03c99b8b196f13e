# SPDX-License-Identifier: GPL-2.0-or-later
"""Affected rule: decides from commits and versions if a vanilla kernel has the bug of a record.

The rule looks at each introducing commit alone, because a bug can be fixed and come back. An introduction is present if
the kernel contains the version that brought it, and fixed if the kernel contains all of its fixes that its branch got,
or a mainline one from before its branch. One introduction that is present and not fixed makes the kernel affected.
docs/cve.md derives the rule.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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
    """One introduction and one fix: versions and commits as the list has them, empty if it has none.

    For an affected kernel `fixed` is a fix to wait for or to build: each one of its own branch that it lacks has an
    Evidence of its own; if there is none, it is the first mainline one.
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
    """The state of one record on one kernel. `evidence` has each introduction that decided it, at least one.

    `several` is true if the kernel's branch got more than one fix of an introduction: one alone is half of the fix.
    `newer` is the version of the kernel's branch that has all fixes that the kernel lacks, empty if there is none.
    """

    record: Record
    state: State
    evidence: tuple[Evidence, ...]
    several: bool = False
    newer: str = ""

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
    judged = [(group, *_judge(group, record, kernel)) for group in record.introductions]
    state = _worst({state for _, state, _ in judged})
    if state is State.NOT_AFFECTED:
        judged = [(_closest(record.introductions, kernel), state, ())]
    evidence, several = [], False
    for group, of, fixes in judged:
        if of is state:
            own = _of_branch(group, record, kernel) if len(group.fixes) > 1 and fixes else []
            evidence += [_explain(group, state, fix, own, kernel) for fix in fixes or (None,)]
            several = several or len(own) > 1
    if record.contradictions or record.doubt:
        state, evidence = _with_contradictions(record, state, evidence, kernel)
    awaited = [fix for _, of, fixes in judged if of is state for fix in fixes or (None,)]
    return Assessment(
        record=record, state=state, evidence=tuple(evidence), several=several, newer=_newer(state, awaited, kernel)
    )


def _newer(state: State, awaited: Sequence[FixCommit | None], kernel: KernelVersion) -> str:
    """Return the version of the kernel's branch that has all the awaited fixes, empty if one is not in its branch."""
    versions = [fix.version for fix in awaited if fix is not None and fix.version.branch == kernel.branch]
    if state not in {State.AFFECTED, State.UNKNOWN} or not versions or len(versions) < len(awaited):
        return ""
    newest = max(versions, key=lambda version: version.order)
    return str(newest) if newest.order > kernel.order else ""


def state_of(record: Record, kernel: KernelVersion) -> State:
    """Return the state that the commits of a record with usable ranges give, without evidence."""
    return _worst({_judge(group, record, kernel)[0] for group in record.introductions})


def _worst(found: set[State]) -> State:
    return next(state for state in (State.AFFECTED, State.UNKNOWN, State.FIXED, State.NOT_AFFECTED) if state in found)


def _with_contradictions(
    record: Record, state: State, evidence: list[Evidence], kernel: KernelVersion
) -> tuple[State, list[Evidence]]:
    """Return state and evidence of a record that says two things about this version: the careful one counts.

    A version range that calls a version affected counts only if no other range of the record calls it unaffected: the
    list writes `before 6.6.113` for a bug of unknown age, which has every fixed kernel of older branches too.
    """
    here = [one for one in record.contradictions if one.has(kernel)]
    if not here and not record.doubt:
        return state, evidence
    reason = f"the record contradicts itself: {here[0].sentence if here else record.doubt}"
    if state in {State.FIXED, State.NOT_AFFECTED}:
        state = State.AFFECTED if any(one.alone for one in here) else State.UNKNOWN if record.doubt else state
    return state, [replace(one, reason=f"{one.reason}; {reason}") for one in evidence]


def assess_all(records: Iterable[Record], kernel: KernelVersion) -> list[Assessment]:
    """Apply the rule to every record, in their order."""
    return [assess(record, kernel) for record in records]


def _judge(group: Introduction, record: Record, kernel: KernelVersion) -> tuple[State, tuple[FixCommit, ...]]:
    """Return the state of one introduction, and the fixes that decide it or leave it open."""
    present = reached(group.version, kernel)
    if present is False:
        return State.NOT_AFFECTED, ()
    own = _of_branch(group, record, kernel)
    if not own:
        earlier = _inherited(group, kernel)
        if earlier is not None:
            return State.FIXED, (earlier,)
        return (State.UNKNOWN, ()) if present is None else (State.AFFECTED, _next_fix(group, kernel))
    contained = [reached(fix.version, kernel) for fix in own]
    lacking = tuple(fix for fix, there in zip(own, contained, strict=True) if there is False)
    if not lacking and None not in contained:
        return State.FIXED, (own[-1],)
    if present is None or not lacking:
        perhaps = tuple(fix for fix, there in zip(own, contained, strict=True) if there is None)
        return State.UNKNOWN, perhaps[:1]
    return State.AFFECTED, lacking


def _inherited(group: Introduction, kernel: KernelVersion) -> FixCommit | None:
    """Return the oldest mainline fix that the kernel's branch began with, None if there is none.

    A fix older than the introduction closed an earlier appearance of the bug, not this one.
    """
    found: FixCommit | None = None
    for fix in group.fixes:
        version = fix.version
        if version.mainline and version.branch < kernel.branch and version.order >= group.version.order:  # noqa: SIM102
            if found is None or version.order < found.version.order:
                found = fix
    return found


def _of_branch(group: Introduction, record: Record, kernel: KernelVersion) -> list[FixCommit]:
    """Return the fixes of an introduction that the kernel's branch got, oldest first: it needs all of them.

    None of these does the branch need: a mainline fix, if an earlier mainline release has one, because one change can
    go into mainline by two trees; and a fix of a later introduction of the record, if the bug was fixed before that:
    then the later one says what it closes.
    """
    branch, begin = kernel.branch, group.version.order
    own = [fix for fix in group.fixes if fix.version.branch == branch and fix.version.order >= begin]
    if not own or len(group.fixes) < 2:
        return own
    begun = _inherited(group, kernel)
    if begun is not None:
        own = [fix for fix in own if not fix.version.mainline]
    own.sort(key=lambda fix: fix.version.order)
    if len(record.introductions) < 2:
        return own
    before = [begun, *own] if begun is not None else own
    return [fix for fix in own if not _belongs_to_later(fix, before, group, record)]


def _belongs_to_later(fix: FixCommit, before: list[FixCommit], group: Introduction, record: Record) -> bool:
    """Return whether `fix` closes an introduction that came after the bug of `group` had been fixed in the branch."""
    return any(
        other is not group
        and any(one.commit == fix.commit and one.version == fix.version for one in other.fixes)
        and any(one.version.order < other.version.order <= fix.version.order for one in before)
        and (other.version.mainline or other.version.branch == fix.version.branch)
        for other in record.introductions
    )


def _next_fix(group: Introduction, kernel: KernelVersion) -> tuple[FixCommit, ...]:
    """Return the first mainline fix after the kernel, none if there is none: the kernel's branch has no fix."""
    later = (fix for fix in group.fixes if fix.version.order > kernel.order and fix.version.mainline)
    return tuple(sorted(later, key=lambda fix: fix.version.order)[:1])


def _closest(groups: tuple[Introduction, ...], kernel: KernelVersion) -> Introduction:
    """Return the introduction a person would ask about: that of the kernel's branch, else the first mainline one."""
    own = [group for group in groups if group.version.branch == kernel.branch]
    mainline = [group for group in groups if group.version.mainline]
    return min(own or mainline or groups, key=lambda group: group.version.order)


def _explain(
    group: Introduction, state: State, fix: FixCommit | None, own: list[FixCommit], kernel: KernelVersion
) -> Evidence:
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
    elif len(own) > 1:
        reason = f"{origin}, fixed by {' and '.join(str(one.version) for one in own)} together"
        if state is State.AFFECTED:
            reason += f"; {kernel} lacks that of {fix.version}"
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
