# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparison of expectations with the output of the guest's commands, phase by phase."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from elivepatch.model.errors import Kind, Problem
from elivepatch.model.trial import Expectation, Observation
from elivepatch.patterns import SEARCH_LIMIT_S, search_patterns
from elivepatch.trial.case import TrialCase
from elivepatch.trial.evidence.predicates import ObservedPredicate
from elivepatch.trial.guest_protocol import Records, Step

PHASES = ("before", "during", "after", "again", "over")
"""Phases of a report, one after the livepatch was loaded again, and one while it is live in place of an earlier one."""

_EXCERPT_LINES = 25
_OUT_OF_TIME = 137  # 128 + SIGKILL, of timeout(1) in init.sh


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One expectation with the output of its command in each phase and the result of the search for its pattern.

    A phase that was not reached has no step and no match. A match is None if the search took too long.
    """

    expectation: Expectation
    steps: Mapping[str, Step]
    matches: Mapping[str, bool | None]

    @property
    def phases(self) -> set[str]:
        """The phases that were reached."""
        return set(self.matches)

    @property
    def met(self) -> bool:
        """True if the pattern is found while the livepatch is enabled and only then."""
        return all(self.matches.get(phase) is (phase == "during") for phase in ("before", "during", "after"))

    @property
    def reverted(self) -> bool:
        """True if the pattern gives the same result after the livepatch was disabled as before it was loaded."""
        after = self.matches.get("after")
        return after is not None and after is self.matches.get("before")

    @property
    def out_of_time(self) -> bool:
        """True if the command was stopped at its time limit in a phase."""
        return any(step.status == _OUT_OF_TIME for step in self.steps.values())

    @property
    def observation(self) -> Observation:
        """The observation for the report."""
        words = {phase: step.words for phase, step in self.steps.items()}
        return Observation(
            command=self.expectation.command,
            pattern=self.expectation.pattern,
            before=words.get("before", ""),
            during=words.get("during", ""),
            after=words.get("after", ""),
            met=self.met,
        )

    def problems(self) -> Iterator[Problem]:
        """Yield a problem for each phase that was reached and is not as expected."""
        name = f"`{_short(self.expectation.command)}`"
        pattern = f"`{_short(self.expectation.pattern)}`"
        if any(match is None for match in self.matches.values()):
            yield _problem(
                "trial-expectation", f"The search for {pattern} in the output of {name} takes longer than "
                f"{SEARCH_LIMIT_S:.0f} s.", "Write the pattern without nested repetition such as (a+)+.",
            )  # fmt: skip
        if self.matches.get("before"):
            yield self._mismatch(
                "before", "trial-expectation", f"{name} matches {pattern} without the livepatch.",
                "Expect output of the patched kernel only; otherwise the trial shows nothing.",
            )  # fmt: skip
        if self.matches.get("during") is False:
            yield self._mismatch(
                "during", "trial-expectation", f"{name} does not match {pattern} while the livepatch is enabled.",
                "Compare the output with the pattern, and check that the command runs the patched code.",
            )  # fmt: skip
        if self.matches.get("after") and not self.matches.get("before"):
            yield self._mismatch(
                "after", "trial-not-reverted", f"{name} still matches {pattern} after the livepatch was disabled.",
                "The patch changes state that stays when it is disabled; undo that in its unpatch callbacks.",
            )  # fmt: skip
        if self.matches.get("during") and self.matches.get("again") is False:
            yield self._mismatch(
                "again", "trial-reload", f"{name} does not match {pattern} after the livepatch was loaded again.",
                "The first time it matched: look for state that the patch leaves behind.",
            )  # fmt: skip
        if self.matches.get("during") and self.matches.get("over") is False:
            yield self._mismatch(
                "over", "trial-over", f"{name} does not match {pattern} after the livepatch has replaced an earlier "
                "one.", "Alone it matched: look for state that the earlier livepatch leaves behind.",
            )  # fmt: skip

    def _mismatch(self, phase: str, code: str, message: str, advice: str) -> Problem:
        step = self.steps[phase]
        if step.status == _OUT_OF_TIME:
            advice += " The command was stopped at its time limit."
        return _problem(code, message, advice, step.words)


def observe(
    scope: str, case: TrialCase, records: Records, *, without: Collection[str] = ()
) -> tuple[Observed | ObservedPredicate, ...]:
    """Return each expectation of the case with what the guest reported for it, except in the phases `without`."""
    steps = [
        {
            phase: step
            for phase in PHASES
            if phase not in without and (step := records.step(scope, f"{phase}.{number:03}"))
        }
        for number in range(len(case.expectations))
    ]
    commands = [number for number, one in enumerate(case.expectations) if one.predicate is None]
    places = [(number, phase) for number in commands for phase in steps[number]]
    pairs = [(case.expectations[number].pattern, steps[number][phase].words) for number, phase in places]
    answers = dict(zip(places, search_patterns(pairs), strict=True))
    return tuple(
        Observed(expectation=expectation, steps=seen, matches={phase: answers[number, phase] for phase in seen})
        if expectation.predicate is None
        else ObservedPredicate(expectation=expectation, steps=seen)
        for number, (expectation, seen) in enumerate(zip(case.expectations, steps, strict=True))
    )


def _problem(code: str, message: str, advice: str, output: str = "") -> Problem:
    lines = [line[:400] for line in output.splitlines()]
    excerpt = "\n".join(lines[:_EXCERPT_LINES])
    return Problem(code=code, kind=Kind.FAILURE, message=message, advice=advice, excerpt=excerpt)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
