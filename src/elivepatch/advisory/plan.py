# SPDX-License-Identifier: GPL-2.0-or-later
"""Decisions about every CVE that concerns a kernel, each with its reason, by the administrator's policy.

Pure functions: facts come in, decisions come out. docs/closing.md has the order of the questions.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty, Exposure
from elivepatch.advisory.exposure.priority import Ranking
from elivepatch.advisory.exposure.verdicts import FixOutcome, FixVerdict
from elivepatch.advisory.fixes.fixes import Fix, Found
from elivepatch.advisory.policy import Policy
from elivepatch.advisory.records.record import at_least, id_order
from elivepatch.model.kernel import Digest
from elivepatch.model.predicate import SECONDS_LIMIT
from elivepatch.model.series import PATCHES_LIMIT, SERIES_LIMIT_BYTES, SourcePatch
from elivepatch.model.trial import EXPECTATIONS_LIMIT, Expectation, predicate_seconds


class Choice(enum.StrEnum):
    """A decision about a CVE."""

    CLOSED = "closed"  # a livepatch closes it already
    CHOSEN = "chosen"
    LEFT_OUT = "left-out"  # the policy does not want it, or not yet
    NO_FIX = "no-fix"
    NEEDS_REBOOT = "needs-reboot"  # a newer kernel of its branch has the fix
    FIX_INCOMPLETE = "fix-incomplete"  # no livepatch, and no newer kernel of its branch has the fix
    NOTHING_TO_DO = "nothing-to-do"
    UNANSWERED = "unanswered"  # the server, a place of fixes or the record gives no answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One CVE, the decision about it and the reason. `fix` is None until one is known."""

    exposed: Exposure
    choice: Choice
    reason: str
    fix: Fix | None = None
    functions: tuple[str, ...] = ()

    @property
    def cve(self) -> str:
        """The CVE's id."""
        return self.exposed.record.id

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "id": self.cve,
            "title": self.exposed.record.title,
            "severity": self.exposed.record.severity,
            "choice": str(self.choice),
            "reason": self.reason,
            "fix": None
            if self.fix is None
            else {"from": self.fix.origin, "patches": [[one.name, one.digest] for one in self.fix.patches]},
            "functions": list(self.functions),
        }


@dataclass(slots=True)
class ClosePlan:
    """Every CVE that concerns a kernel, by id, with its decision of today."""

    decisions: dict[str, Decision] = field(default_factory=dict)

    def decide(self, cve: str, choice: Choice, reason: str, **more: Any) -> None:
        """Replace the decision about a CVE."""
        self.decisions[cve] = replace(self.decisions[cve], choice=choice, reason=reason, **more)

    def having(self, choice: Choice) -> list[Decision]:
        """Return the decisions of this kind, by CVE."""
        return sorted(
            (one for one in self.decisions.values() if one.choice is choice), key=lambda one: id_order(one.cve)
        )

    def chosen(self) -> list[tuple[Decision, Fix]]:
        """Return the chosen ones, in the order in which the fixes went into the branch."""
        both = [(one, one.fix) for one in self.having(Choice.CHOSEN) if one.fix is not None]
        return sorted(both, key=lambda pair: in_order(pair[1]))

    def unanswered(self) -> list[Decision]:
        """Return those that neither the server nor a place of fixes could answer, or whose record cannot be read."""
        return self.having(Choice.UNANSWERED)

    def counts(self) -> dict[str, int]:
        """Return how many CVEs have which decision."""
        counted = Counter(one.choice for one in self.decisions.values())
        return {str(choice): counted[choice] for choice in Choice}


def in_order(fix: Fix) -> tuple[tuple[int, ...], datetime, tuple[int, int]]:
    """Return the key that sorts fixes as they went into the branch: by version, then date, then CVE."""
    return fix.order, fix.dated, id_order(fix.cve)


def select(exposed: Iterable[Exposure], policy: Policy, ranking: Ranking) -> ClosePlan:
    """Return a plan with every CVE that concerns the kernel, chosen or left out by the policy."""
    plan = ClosePlan()
    for one in exposed:
        if one.concerned:
            choice, reason = _wish(one, policy, exploited=one.record.id in ranking.exploited)
            plan.decisions[one.record.id] = Decision(exposed=one, choice=choice, reason=reason)
    return plan


def _wish(one: Exposure, policy: Policy, *, exploited: bool) -> tuple[Choice, str]:
    record = one.record
    if one.closed is not None:
        return Choice.CLOSED, one.closed.reason
    if record.id in policy.exclude:
        return Choice.LEFT_OUT, "the policy excludes it"
    if record.id in policy.include:
        return Choice.CHOSEN, "the policy includes it"
    if record.defect and not record.older:
        return Choice.UNANSWERED, f"its record cannot be used: {record.defect}"
    if one.assessment.state is State.UNKNOWN:
        return Choice.LEFT_OUT, f"it is not certain that this kernel is affected: {one.assessment.evidence[0].reason}"
    if policy.loaded_only and one.loaded.certainty is Certainty.NO:
        return Choice.LEFT_OUT, one.loaded.reason
    if exploited:
        return Choice.CHOSEN, "it is known to be exploited"
    if record.severity == "unrated":
        return (Choice.CHOSEN, "it has no score") if policy.unrated else (Choice.LEFT_OUT, "it has no score")
    if not at_least(record.severity, policy.severity):
        return Choice.LEFT_OUT, f"its severity is {record.severity}"
    return Choice.CHOSEN, f"its severity is {record.severity}"


def with_fixes(plan: ClosePlan, found: Found, policy: Policy, now: datetime) -> None:
    """Give every chosen CVE its fix; one without, or with one that is too young, is no longer chosen."""
    for one in plan.having(Choice.CHOSEN):
        fix = found.fixes.get(one.cve)
        if fix is None and one.cve in found.unanswered:
            plan.decide(one.cve, Choice.UNANSWERED, found.unanswered[one.cve])
        elif fix is None:
            plan.decide(one.cve, Choice.NO_FIX, found.missing.get(one.cve, "no fix was found"))
        elif _too_young(fix, policy, now) and one.cve not in policy.include:
            reason = f"its fix is of {fix.dated:%Y-%m-%d}: less than {policy.min_age_days} days old"
            plan.decide(one.cve, Choice.LEFT_OUT, reason, fix=fix)
        else:
            plan.decide(one.cve, Choice.CHOSEN, one.reason, fix=fix)


def _too_young(fix: Fix, policy: Policy, now: datetime) -> bool:
    # A wrong clock dates a fix into the future; without a minimum age that does not matter.
    return policy.min_age_days > 0 and now - fix.dated < timedelta(days=policy.min_age_days)


def with_verdicts(plan: ClosePlan, verdicts: Mapping[str, FixVerdict], live: Collection[Digest], now: datetime) -> None:
    """Take out of the chosen ones those that cannot be a livepatch by their verdict, or need none.

    A fix that only works after others stays if these are chosen or live. One that did not go with the others stays
    out while these are the same, and if only its trial failed, for a week. `now` has a time zone.
    """
    chosen = plan.chosen()
    good = [(one, fix) for one, fix in chosen if (verdict := verdicts.get(one.cve)) is None or verdict.problem is None]
    there = {digest for _, fix in good for digest in fix.digests} | set(live)
    for one, _ in chosen:
        verdict = verdicts.get(one.cve)
        if verdict is None:
            continue
        if verdict.problem is None and set(verdict.after) <= there:
            plan.decide(one.cve, Choice.CHOSEN, one.reason, functions=verdict.functions)
        elif verdict.problem is None:
            plan.decide(one.cve, Choice.LEFT_OUT, "it only applies after another fix, which is not chosen")
        elif verdict.outcome is FixOutcome.COVERED and verdict.closed_by <= there:
            plan.decide(one.cve, Choice.NOTHING_TO_DO, "another fix brings the same change")
        elif verdict.beside and set(verdict.beside) != there:
            plan.decide(one.cve, Choice.CHOSEN, "it did not go with the others before; they changed since")
        elif verdict.beside and verdict.expired(now):
            old = "its trial with the others failed more than a week ago, or says nothing of it"
            plan.decide(one.cve, Choice.CHOSEN, old)
        else:
            with_others = "it does not go with the others: " if verdict.beside else ""
            reason = f"{with_others}{verdict.problem.message} [{verdict.problem.code}]"
            if verdict.outcome is FixOutcome.NOTHING_TO_DO:
                plan.decide(one.cve, Choice.NOTHING_TO_DO, reason)
            else:
                refuse(plan, one.cve, verdict, reason)


def refuse(plan: ClosePlan, cve: str, verdict: FixVerdict, reason: str) -> None:
    """Decide about a CVE whose fix cannot be a livepatch: a reboot helps only where a newer kernel has the fix."""
    newer = plan.decisions[cve].exposed.assessment.newer
    if newer:
        plan.decide(cve, Choice.NEEDS_REBOOT, f"{reason}; {newer} has the fix")
    elif verdict.lacks_prerequisites:
        plan.decide(cve, Choice.FIX_INCOMPLETE, f"fix incomplete: prerequisites missing: {reason}")
    else:
        plan.decide(cve, Choice.FIX_INCOMPLETE, f"no newer kernel of this branch has the fix: {reason}")


def reopen(plan: ClosePlan, cve: str, policy: Policy, ranking: Ranking) -> None:
    """Let the policy decide about a CVE again: not all source patches of its fix are live by now."""
    open_ = replace(plan.decisions[cve].exposed, closed=None)
    choice, reason = _wish(open_, policy, exploited=cve in ranking.exploited)
    plan.decide(cve, choice, f"{reason}; its fix has more parts than those that are live", exposed=open_)


def within_limit(plan: ClosePlan, policy: Policy, ranking: Ranking, live: Collection[str]) -> None:
    """Leave out the least urgent fixes that would make more functions live than the policy allows."""
    functions = set(live)
    for one in _by_urgency(plan, policy, ranking):
        more = functions | set(one.functions)
        if len(more) > policy.max_functions:
            reason = f"with it, {len(more)} functions would be live: the policy allows {policy.max_functions}"
            plan.decide(one.cve, Choice.LEFT_OUT, reason)
        else:
            functions = more


def within_request(plan: ClosePlan, policy: Policy, ranking: Ranking, live: Mapping[Digest, int]) -> None:
    """Leave out the least urgent fixes with which the cumulative series would exceed a limit of one request.

    `live` has the size in bytes of each live source patch: the series carries all of them. A fix that is left out for
    its expectations is chosen by the next run: the trial has to see those of new fixes only.
    """
    digests, total = set(live), sum(live.values())
    expectations: set[Expectation] = set()
    for one in _by_urgency(plan, policy, ranking):
        if one.fix is None:
            continue
        new = {patch.digest: len(patch.content) for patch in one.fix.patches if patch.digest not in digests}
        expected = expectations | set(one.fix.expectations)
        reason = _exceeded(len(digests) + len(new), total + sum(new.values()), expected)
        if reason:
            plan.decide(one.cve, Choice.LEFT_OUT, f"with it, {reason} of one request")
        else:
            digests.update(new)
            total += sum(new.values())
            expectations = expected


def _exceeded(patches: int, size: int, expectations: Collection[Expectation]) -> str:
    """Return the limit that a series of so many patches, bytes and expectations exceeds, empty if it exceeds none."""
    if size > SERIES_LIMIT_BYTES:
        return f"the series would exceed the {SERIES_LIMIT_BYTES >> 20} MiB"
    if patches > PATCHES_LIMIT:
        return f"the series would exceed the {PATCHES_LIMIT} source patches"
    if len(expectations) > EXPECTATIONS_LIMIT:
        return f"its trial would exceed the {EXPECTATIONS_LIMIT} expectations"
    late = predicate_seconds(expectations) > SECONDS_LIMIT
    return f"its trial would exceed the {SECONDS_LIMIT} s of predicates" if late else ""


def _by_urgency(plan: ClosePlan, policy: Policy, ranking: Ranking) -> list[Decision]:
    def urgency(one: Decision) -> tuple[bool, bool, float, int, tuple[int, int]]:
        name, score = one.cve, one.exposed.record.score
        return (
            name not in policy.include,
            name not in ranking.exploited,
            -ranking.probability.get(name, 0.0),
            -(score or 0),
            id_order(name),
        )

    return sorted(plan.having(Choice.CHOSEN), key=urgency)


def series_of(fixes: Iterable[Fix], carried: Sequence[SourcePatch]) -> tuple[SourcePatch, ...]:
    """Return the series that closes everything: carried patches, then the fixes in order, each patch once."""
    patches: dict[Digest, SourcePatch] = {patch.digest: patch for patch in carried}
    for fix in fixes:
        for patch in fix.patches:
            patches.setdefault(patch.digest, patch)
    return tuple(patches.values())
