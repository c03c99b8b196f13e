# SPDX-License-Identifier: GPL-2.0-or-later
"""One livepatch from fixes that each work alone: built and tried; fixes that do not go with the others are left out.

If the whole series fails, the first fix with which it fails is found by bisecting prefixes of the series, in the
cheapest form in which the failure shows: the verdict, the module, the trial. That fix is left out
and the rest is built.

A trial may fail or pass by chance. So a series that fails its trial is tried a second time before the bisection. Before
a fix is blamed, the prefix that ends with it must fail a second time, and the one without it pass a second time. Other
failures need no repetition: the server gives the same question the same answer.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from elivepatch.advisory.exposure.verdicts import lasting
from elivepatch.advisory.fixes.fixes import Fix
from elivepatch.advisory.plan import series_of
from elivepatch.client.cve.verdict_client import VerdictClient
from elivepatch.client.server.report import Report
from elivepatch.model.errors import BuildStopped, HostError, Kind, Problem
from elivepatch.model.progress import Event
from elivepatch.model.series import SourcePatch
from elivepatch.model.trial import Expectation

_CHANCES = 2
"""Number of times that a bisection may end without a culprit before the trial counts as unsteady."""


class Form(enum.Enum):
    """The part of a build that is asked for."""

    VERDICT = "verdict"
    MODULE = "module"
    TRIAL = "trial"


@dataclass(slots=True, kw_only=True)
class Cumulative:
    """The result. `report` is None if no fix is left; `culprits` are the fixes left out, each with its problem."""

    report: Report | None = None
    kept: list[Fix] = field(default_factory=list)
    culprits: list[tuple[Fix, Problem]] = field(default_factory=list)

    @property
    def functions(self) -> int:
        """Number of functions that the livepatch replaces."""
        return len(self.report.functions) if self.report is not None else 0


def build_cumulative(
    client: VerdictClient, fixes: Sequence[Fix], carried: Sequence[SourcePatch], *, trial: bool = True
) -> Cumulative:
    """Build one livepatch from `carried`, which is live, and as many of `fixes` as go together, in their order.

    Raises HostError if the carried patches by themselves cannot be built any more, BuildStopped if the server is at
    fault, time is up, or the trial fails without any fix to blame.
    """
    series = _Series(client=client, carried=carried, forms=tuple(Form) if trial else (Form.VERDICT, Form.MODULE))
    made = Cumulative(kept=list(fixes))
    chances = 0
    while made.kept:
        client.progress(Event(stage="build", message=f"one livepatch from {len(made.kept)} fixes"))
        report = series.ask_twice(made.kept, series.forms[-1])
        if report.problem is None:
            made.report = report
            return made
        found = series.culprit(made.kept, report.problem)
        if found is None:
            chances += 1
            if chances > _CHANCES:
                raise BuildStopped(_unsteady(report.problem))
            continue
        number, problem = found
        culprit = made.kept.pop(number)
        client.progress(Event(stage="build", message=f"{culprit.cve} is left out: {problem.message}"))
        made.culprits.append((culprit, problem))
    return made


def expectations_of(fixes: Sequence[Fix]) -> tuple[Expectation, ...]:
    """Return the expectations of these fixes for their trial, each once."""
    return tuple(dict.fromkeys(one for fix in fixes for one in fix.expectations))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """Questions about prefixes of one series, each after `carried`; `forms` are those in use, the cheapest first."""

    client: VerdictClient
    carried: Sequence[SourcePatch]
    forms: tuple[Form, ...]

    def ask(self, fixes: Sequence[Fix], form: Form) -> Report:
        """Ask about carried patches and `fixes` in one form."""
        tried = form is Form.TRIAL
        return self.client.ask(
            series_of(fixes, self.carried),
            check_only=form is Form.VERDICT,
            trial=tried,
            expectations=expectations_of(fixes) if tried else (),
        )

    def ask_twice(self, fixes: Sequence[Fix], form: Form) -> Report:
        """Ask, and a second time if the failure may be one of chance."""
        report = self.ask(fixes, form)
        if report.problem is not None and not lasting(report.problem):
            self.client.progress(Event(stage="build", message=f"once more: {report.problem.message}"))
            report = self.ask(fixes, form)
        return report

    def culprit(self, fixes: Sequence[Fix], problem: Problem) -> tuple[int, Problem] | None:
        """Return the index of the first fix with which the series fails, and the problem that it fails with.

        None if the second look differs from the first: then chance had a part in it.
        """
        form = self.forms[-1]
        for cheaper in self.forms[:-1]:
            report = self.ask(fixes, cheaper)
            if report.problem is not None:
                form, problem = cheaper, report.problem
                break
        good, bad = 0, len(fixes)
        while bad - good > 1:
            middle = (good + bad) // 2
            self.client.progress(Event(stage="bisect", message=f"fixes {good + 1} to {bad}, by {form.value}"))
            report = self.ask(fixes[:middle], form)
            if report.problem is None:
                good = middle
            else:
                bad, problem = middle, report.problem
        if not lasting(problem):
            # By elimination alone the last fix of the series would be blamed for each failure of chance.
            report = self.ask(fixes[:bad], form)
            if report.problem is None or (good and self.ask(fixes[:good], form).problem is not None):
                return None
            problem = report.problem
        if bad == 1 and self.carried:
            self._require_carried(form)
        return bad - 1, problem

    def _require_carried(self, form: Form) -> None:
        """Raise HostError if the live patches by themselves fail, so that no fix is to blame."""
        report = self.ask_twice([], form)
        if report.problem is not None:
            raise HostError(
                "carried-fails",
                f"The live patches by themselves cannot be built again: {report.problem.message}",
                advice="Nothing was changed. Report the fault to the server's administrator; `elivepatch rollback` and "
                "`unload` still work.",
                excerpt=report.problem.excerpt,
            )


def _unsteady(problem: Problem) -> Problem:
    return Problem(
        code="trial-unsteady",
        kind=Kind.ERROR,
        message=f"The same series passes its trial at one time and fails it at another: {problem.message}",
        advice="Nothing was changed and no fix was blamed. Run it again; if this repeats, the server's trials need "
        "more time or a less busy machine.",
        excerpt=problem.excerpt,
    )
