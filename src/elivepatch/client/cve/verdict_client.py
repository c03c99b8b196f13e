# SPDX-License-Identifier: GPL-2.0-or-later
"""Client for verdicts: asks the server about each fix once and remembers each answer at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from elivepatch.advisory.exposure.verdicts import FixVerdict, FixVerdicts, about_patches, lasting, remembered
from elivepatch.advisory.fixes.fixes import Fix
from elivepatch.advisory.plan import ClosePlan, in_order, series_of
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.follow import JobFollower
from elivepatch.client.server.report import Report
from elivepatch.model.build import BuildRequest
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, Kind, Problem
from elivepatch.model.kernel import Digest, Release
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.model.series import BasePatch, PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation, TrialOutcome

THREAD_MAIN = "thread-main"
"""Code of a note, and of the verdict that follows from it for a fix that is to be closed without a person."""

_AHEAD = 8  # requests that wait at the server, so that it always has the next one


@dataclass(slots=True, kw_only=True)
class VerdictClient:
    """One server's verdicts on fixes for one kernel; `verdicts` grows with each answer.

    Each request names `base_patches`, so that a server whose base was made with others refuses it. `out_of_time` is
    called before each request; requests that are `automatic` wait behind those of people. Trials are `thorough` if the
    policy says so. With `require_trial` `passed`, a livepatch whose trial passed only partly counts as one whose trial
    failed.
    """

    server: ServerClient
    release: Release
    base_patches: tuple[BasePatch, ...] = ()
    builder: Digest
    cache: CveCache
    verdicts: FixVerdicts
    progress: Progress
    out_of_time: Callable[[], bool] = lambda: False
    automatic: bool = False
    require_trial: str = "passed"
    thorough: bool = False

    def ask_about(self, plan: ClosePlan) -> dict[str, Problem]:
        """Get a verdict on every chosen fix; return the problems that kept the server from giving one, by CVE.

        A fix that lacks context is asked about again after those that change the same files before it.
        """
        fixes = [fix for _, fix in plan.chosen()]
        unanswered = self._ask_all([_Question(fix=fix) for fix in fixes if not self._holds(fix)])
        good = [fix for fix in fixes if self._works(fix)]
        again = []
        for fix in fixes:
            verdict = self.verdicts.by_cve.get(fix.cve)
            if verdict is not None and verdict.lacks_context and fix.cve not in unanswered:
                before = [one for one in good if in_order(one) < in_order(fix) and one.files & fix.files]
                patches = series_of(map(self.left_of, before), ())
                if patches and verdict.after != tuple(patch.digest for patch in patches):
                    again.append(_Question(fix=fix, before=patches, applied=verdict.applied))
        return unanswered | self._ask_all(again)

    def remember(self, cve: str, verdict: FixVerdict) -> None:
        """Remember a verdict, also on disk: a run that is cut off does not ask again."""
        self.verdicts.by_cve[cve] = verdict
        self.cache.log_verdict(self.verdicts.release, cve, verdict)

    def left_of(self, fix: Fix) -> Fix:
        """Return the fix without the source patches that the kernel's source has already."""
        verdict = self.verdicts.by_cve.get(fix.cve)
        applied = verdict.applied if verdict is not None and self._holds(fix) else ()
        left = tuple(patch for patch in fix.patches if patch.digest not in applied)
        return replace(fix, patches=left) if applied and left else fix

    def note_fixes(self, fixes: Iterable[Fix]) -> None:
        """Note which source patches fix each CVE; write all verdicts to disk if any is new or only in the log."""
        if note_fixes(self.verdicts, fixes, self.builder) or self.cache.has_log(self.verdicts.release):
            self.cache.keep_verdicts(self.verdicts)

    def ask(
        self,
        series: Sequence[SourcePatch],
        *,
        check_only: bool,
        trial: bool,
        expectations: Sequence[Expectation] = (),
    ) -> Report:
        """Return the report about a series; a problem in it is about the source patches.

        Raises BuildStopped if time is up, if the server is at fault or if the request is too large: none of these is a
        verdict on a fix.
        """
        job = self._submit(series, check_only=check_only, trial=trial, expectations=expectations)
        report = JobFollower(self.progress).follow(self.server, job)
        if report.problem is not None and not about_patches(report.problem):
            raise BuildStopped(report.problem)
        return self._as_required(report) if trial else report

    def _submit(
        self,
        series: Sequence[SourcePatch],
        *,
        check_only: bool,
        trial: bool,
        expectations: Sequence[Expectation] = (),
    ) -> str:
        if self.out_of_time():
            raise BuildStopped(out_of_time())
        request = BuildRequest(
            release=self.release,
            series=PatchSeries(tuple(series)),
            expectations=tuple(expectations),
            trial=trial,
            thorough=trial and self.thorough,
            check_only=check_only,
            base_patches=self.base_patches,
        )
        return JobFollower(self.progress).retry(lambda: self.server.submit(request, automatic=self.automatic))

    def _as_required(self, report: Report) -> Report:
        """Return the report; one of a trial that this host does not accept has a problem."""
        trial = report.trial
        if self.require_trial != "passed" or trial is None or trial.outcome is not TrialOutcome.PARTLY:
            return report
        found = Problem(
            code="trial-required",
            kind=Kind.FAILURE,
            message=f"The trial passed only partly ({trial.left_out} was not tried), and this host asks for more.",
            advice="Try it on a machine with that hardware, or set require_trial to `partly`.",
        )
        return replace(report, problem=found)

    def _holds(self, fix: Fix) -> bool:
        verdict = self.verdicts.by_cve.get(fix.cve)
        return verdict is not None and verdict.holds(fix.digests, self.builder)

    def _works(self, fix: Fix) -> bool:
        verdict = self.verdicts.by_cve.get(fix.cve)
        return verdict is not None and verdict.problem is None and verdict.asked

    def _ask_all(self, questions: Sequence[_Question]) -> dict[str, Problem]:
        unanswered: dict[str, Problem] = {}
        waiting: list[tuple[_Question, str]] = []
        pending = list(reversed(questions))
        done = 0
        while pending or waiting:
            while pending and len(waiting) < _AHEAD:
                question = pending.pop()
                waiting.append((question, self._submit(question.series, check_only=True, trial=False)))
            question, job = waiting.pop(0)
            cve = question.fix.cve
            self.progress(Event(stage="verdict", message=cve, fraction=done / len(questions)))
            # Of many small jobs only their number is of interest.
            report = JobFollower(silent).follow(self.server, job)
            narrower = question.without_applied(report.problem)
            if narrower is not None and narrower.left:
                pending.append(narrower)
                continue
            done += 1
            if report.problem is not None and not lasting(report.problem):
                unanswered[cve] = report.problem
            else:
                self.remember(cve, self._verdict(narrower or question, report))
        return unanswered

    def _verdict(self, question: _Question, report: Report) -> FixVerdict:
        fix = question.fix
        made = FixVerdict(
            patches=fix.digests,
            builder=self.builder,
            asked=True,
            problem=_problem(report),
            functions=functions_of(report),
            after=tuple(patch.digest for patch in question.before),
            at=timestamp(),
            applied=question.applied,
            commits=fix.commits,
        )
        if made.problem is None or not made.lacks_context or not fix.hints:
            return made
        advice = f"{made.problem.advice} Before it, these changed the same files: {'; '.join(fix.hints[:4])}."
        return replace(made, problem=replace(made.problem, advice=advice[:800]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A question about one fix after other patches, without those of its own that the source has already."""

    fix: Fix
    before: tuple[SourcePatch, ...] = ()
    applied: tuple[Digest, ...] = ()

    @property
    def left(self) -> tuple[SourcePatch, ...]:
        """The patches of the fix that are asked about."""
        return tuple(patch for patch in self.fix.patches if patch.digest not in self.applied)

    @property
    def series(self) -> tuple[SourcePatch, ...]:
        return series_of([replace(self.fix, patches=self.left)], self.before)

    def without_applied(self, problem: Problem | None) -> _Question | None:
        """Return the question without the patch that the source has, None if the answer names none of several.

        The server ends with the first patch that is in the source already: the others may be missing there.
        """
        if problem is None or problem.code != "already-applied" or len(self.fix.patches) < 2:
            return None
        there = next((patch for patch in self.left if problem.message.startswith(f"{patch.name} ")), None)
        return replace(self, applied=(*self.applied, there.digest)) if there is not None else None


def _problem(report: Report) -> Problem | None:
    """Return the problem with a fix: the report's, or the note that its livepatch would never come into force."""
    if report.problem is not None:
        return remembered(report.problem)
    held = next((note for note in report.notes if note.code == THREAD_MAIN), None)
    return None if held is None else remembered(problem(THREAD_MAIN, held.message))


def functions_of(report: Report) -> tuple[str, ...]:
    """Return the functions that a job replaces, as `object:function`, each once."""
    return tuple(dict.fromkeys(f"{one.object}:{one.name}" for one in report.functions))


def timestamp() -> str:
    """Return the time of a verdict that is given now (UTC, ISO 8601)."""
    return datetime.now(tz=UTC).isoformat(timespec="seconds")


def out_of_time() -> Problem:
    """Return the problem of a run whose time is up."""
    return Problem(
        code="time-is-up",
        kind=Kind.ERROR,
        message="The time for this run is up.",
        advice="Run it again: it continues from the answers so far. `limit_minutes` in the policy gives it longer.",
    )


def note_fixes(verdicts: FixVerdicts, fixes: Iterable[Fix], builder: Digest) -> bool:
    """Note which source patches fix each CVE; return whether any of it is new."""
    changed = False
    for fix in fixes:
        known = verdicts.by_cve.get(fix.cve)
        same = known is not None and known.patches == fix.digests
        if known is None or not same or known.builder != builder:
            functions = known.functions if known is not None and same else ()
            noted = FixVerdict(patches=fix.digests, builder=builder, functions=functions, commits=fix.commits)
        else:
            noted = replace(known, commits=fix.commits)
        changed = changed or noted != known
        verdicts.by_cve[fix.cve] = noted
    return changed
