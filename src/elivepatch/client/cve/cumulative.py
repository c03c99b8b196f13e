# SPDX-License-Identifier: GPL-2.0-or-later
"""From fixes that each work alone to one livepatch that carries all of them: built, tried, the culprits left out.

Where the whole series fails, the first fix with which it fails is found by bisecting prefixes of the series, in the
cheapest form in which the failure shows: the verdict, the module, the trial. That fix is left out and the rest goes on.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from elivepatch.advisory.fixes.fixes import Fix
from elivepatch.advisory.plan import series_of
from elivepatch.client.cve.verdict_client import VerdictClient
from elivepatch.client.server.report import Report
from elivepatch.model.errors import HostError, Problem
from elivepatch.model.progress import Event
from elivepatch.model.series import SourcePatch
from elivepatch.model.trial import Expectation


class Form(enum.Enum):
    """How much of a build is asked for."""

    VERDICT = "verdict"
    MODULE = "module"
    TRIAL = "trial"


@dataclass(slots=True, kw_only=True)
class Cumulative:
    """What came out. `report` is None where no fix is left; `culprits` are what was left out and why."""

    report: Report | None = None
    kept: list[Fix] = field(default_factory=list)
    culprits: list[tuple[Fix, Problem]] = field(default_factory=list)

    @property
    def functions(self) -> int:
        """How many functions the livepatch replaces."""
        return len(self.report.functions) if self.report is not None else 0


def build_cumulative(
    judge: VerdictClient, fixes: Sequence[Fix], carried: Sequence[SourcePatch], *, trial: bool = True
) -> Cumulative:
    """Build one livepatch from `carried`, which is live, and as many of `fixes` as go together, in their order.

    Raises HostError where what is carried cannot be built by itself any more, BuildStopped where the server is at
    fault or time is up.
    """
    made = Cumulative(kept=list(fixes))
    forms = [Form.VERDICT, Form.MODULE, *([Form.TRIAL] if trial else [])]
    while made.kept:
        judge.progress(Event(stage="build", message=f"one livepatch from {len(made.kept)} fixes"))
        report = _ask(judge, made.kept, carried, forms[-1])
        if report.problem is None:
            made.report = report
            return made
        number, problem = _culprit(judge, made.kept, carried, forms, report.problem)
        culprit = made.kept.pop(number)
        judge.progress(Event(stage="build", message=f"{culprit.cve} is left out: {problem.message}"))
        made.culprits.append((culprit, problem))
    return made


def _ask(judge: VerdictClient, fixes: Sequence[Fix], carried: Sequence[SourcePatch], form: Form) -> Report:
    series, tried = series_of(fixes, carried), form is Form.TRIAL
    expected = expectations_of(fixes) if tried else ()
    return judge.ask(series, check_only=form is Form.VERDICT, trial=tried, expectations=expected)


def expectations_of(fixes: Sequence[Fix]) -> tuple[Expectation, ...]:
    """Return what the trial of these fixes must see, each once."""
    return tuple(dict.fromkeys(one for fix in fixes for one in fix.expectations))


def _culprit(
    judge: VerdictClient, fixes: Sequence[Fix], carried: Sequence[SourcePatch], forms: Sequence[Form], problem: Problem
) -> tuple[int, Problem]:
    """Return the place of the first fix with which the series fails, and the problem that it fails with."""
    form = forms[-1]
    for cheaper in forms[:-1]:
        report = _ask(judge, fixes, carried, cheaper)
        if report.problem is not None:
            form, problem = cheaper, report.problem
            break
    good, bad = 0, len(fixes)
    while bad - good > 1:
        middle = (good + bad) // 2
        judge.progress(Event(stage="bisect", message=f"fixes {good + 1} to {bad}, by {form.value}"))
        report = _ask(judge, fixes[:middle], carried, form)
        if report.problem is None:
            good = middle
        else:
            bad, problem = middle, report.problem
    if bad == 1 and carried:
        report = _ask(judge, [], carried, form)
        if report.problem is not None:
            raise HostError(
                "carried-fails",
                f"What is live here cannot be built again by itself: {report.problem.message}",
                advice="Nothing was changed. Take the fault to whoever runs the server; `elivepatch rollback` and "
                "`unload` go on working.",
                excerpt=report.problem.excerpt,
            )
    return bad - 1, problem
