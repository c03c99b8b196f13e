# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking the server what can be a livepatch: each fix once, every answer remembered at once, nothing asked twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from elivepatch.advisory.exposure.verdicts import FixVerdict, FixVerdicts, lasting, remembered
from elivepatch.advisory.fixes.fixes import Fix
from elivepatch.advisory.plan import ClosePlan, in_order, series_of
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.server.advisories import AdvisoryServer
from elivepatch.client.server.follow import Patience
from elivepatch.client.server.report import Report
from elivepatch.model.build import BuildRequest
from elivepatch.model.errors import BuildStopped, Kind, Problem
from elivepatch.model.kernel import Digest, Release
from elivepatch.model.progress import Event, Progress
from elivepatch.model.series import BasePatch, PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation

_AHEAD = 8  # requests that wait at the server, so that it never waits for us


@dataclass(slots=True, kw_only=True)
class VerdictClient:
    """One server's verdicts on fixes for one kernel. `out_of_time` is asked before every question.

    Every question names `base_patches`, so that a server whose base was made with others refuses it.
    """

    server: AdvisoryServer
    release: Release
    base_patches: tuple[BasePatch, ...] = ()
    builder: Digest
    kept: CveCache
    verdicts: FixVerdicts
    progress: Progress
    out_of_time: Callable[[], bool] = lambda: False
    automatic: bool = False

    def judge(self, plan: ClosePlan) -> dict[str, Problem]:
        """Have a verdict on every chosen fix; return what kept the server from giving one, by CVE.

        A fix that fails for lack of context is asked again after those that change the same files before it.
        """
        fixes = [fix for _, fix in plan.chosen()]
        unanswered = self._ask_all([(fix, ()) for fix in fixes if not self._holds(fix)])
        good = [fix for fix in fixes if self._works(fix)]
        again = []
        for fix in fixes:
            verdict = self.verdicts.by_cve.get(fix.cve)
            if verdict is not None and verdict.lacks_context and fix.cve not in unanswered:
                before = [one for one in good if in_order(one) < in_order(fix) and one.files & fix.files]
                patches = series_of(before, ())
                if patches and verdict.after != tuple(patch.digest for patch in patches):
                    again.append((fix, patches))
        return unanswered | self._ask_all(again)

    def remember(self, cve: str, verdict: FixVerdict) -> None:
        """Keep a verdict, on the disk too."""
        self.verdicts.by_cve[cve] = verdict
        self.kept.keep_verdicts(self.verdicts)

    def ask(
        self,
        series: Sequence[SourcePatch],
        *,
        check_only: bool,
        trial: bool,
        expectations: Sequence[Expectation] = (),
    ) -> Report:
        """Return the report about a series. Raises BuildStopped where time is up or the server is at fault."""
        job = self._submit(series, check_only=check_only, trial=trial, expectations=expectations)
        report = Patience(self.progress).follow(self.server, job)
        if report.problem is not None and not lasting(report.problem):
            raise BuildStopped(report.problem)
        return report

    def require_time(self) -> None:
        """Raise BuildStopped where the time for this run is up."""
        if self.out_of_time():
            raise BuildStopped(out_of_time())

    def _submit(
        self,
        series: Sequence[SourcePatch],
        *,
        check_only: bool,
        trial: bool,
        expectations: Sequence[Expectation] = (),
    ) -> str:
        self.require_time()
        request = BuildRequest(
            release=self.release,
            series=PatchSeries(tuple(series)),
            expectations=tuple(expectations),
            trial=trial,
            check_only=check_only,
            base_patches=self.base_patches,
        )
        return Patience(self.progress).ask(lambda: self.server.submit(request, automatic=self.automatic))

    def _holds(self, fix: Fix) -> bool:
        verdict = self.verdicts.by_cve.get(fix.cve)
        return verdict is not None and verdict.holds(fix.digests, self.builder)

    def _works(self, fix: Fix) -> bool:
        verdict = self.verdicts.by_cve.get(fix.cve)
        return verdict is not None and verdict.problem is None and verdict.asked

    def _ask_all(self, questions: Sequence[tuple[Fix, Sequence[SourcePatch]]]) -> dict[str, Problem]:
        unanswered: dict[str, Problem] = {}
        waiting: list[tuple[Fix, Sequence[SourcePatch], str]] = []
        pending = list(questions)
        done = 0
        while pending or waiting:
            while pending and len(waiting) < _AHEAD:
                fix, before = pending.pop(0)
                job = self._submit(series_of([fix], before), check_only=True, trial=False)
                waiting.append((fix, before, job))
            fix, before, job = waiting.pop(0)
            self.progress(Event(stage="verdict", message=fix.cve, fraction=done / len(questions)))
            report = Patience(_quiet).follow(self.server, job)
            done += 1
            if report.problem is not None and not lasting(report.problem):
                unanswered[fix.cve] = report.problem
            else:
                self.remember(fix.cve, self._verdict(fix, before, report))
        return unanswered

    def _verdict(self, fix: Fix, before: Sequence[SourcePatch], report: Report) -> FixVerdict:
        problem = None if report.problem is None else remembered(report.problem)
        if problem is not None and fix.hints:
            hints = "; ".join(fix.hints[:4])
            problem = replace(
                problem, advice=f"{problem.advice} Before it, these changed the same files: {hints}."[:800]
            )
        return FixVerdict(
            patches=fix.digests,
            builder=self.builder,
            asked=True,
            problem=problem,
            functions=functions_of(report),
            after=tuple(patch.digest for patch in before),
            at=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        )


def functions_of(report: Report) -> tuple[str, ...]:
    """Return what a job replaces, as `object:function`, each once."""
    return tuple(dict.fromkeys(f"{one.object}:{one.name}" for one in report.functions))


def out_of_time() -> Problem:
    """Return what ends a run whose time is up."""
    return Problem(
        code="time-is-up",
        kind=Kind.ERROR,
        message="The time for this run is up.",
        advice="Run it again: it goes on where it stopped. `limit_minutes` in the policy gives it longer.",
    )


def note_fixes(verdicts: FixVerdicts, fixes: Iterable[Fix], builder: Digest) -> bool:
    """Note which source patches fix what, where that is new; tell whether anything was."""
    changed = False
    for fix in fixes:
        known = verdicts.by_cve.get(fix.cve)
        same = known is not None and known.patches == fix.digests
        if known is None or not same or known.builder != builder:
            functions = known.functions if known is not None and same else ()
            verdicts.by_cve[fix.cve] = FixVerdict(patches=fix.digests, builder=builder, functions=functions)
            changed = True
    return changed


def _quiet(event: Event) -> None:
    """Say nothing: of many small jobs only their number is of interest."""
