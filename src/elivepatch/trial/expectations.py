# SPDX-License-Identifier: GPL-2.0-or-later
"""Expectations against what the guest's commands printed, phase by phase."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files

from elivepatch.model.errors import Kind, Problem
from elivepatch.model.trial import Expectation, Observation
from elivepatch.process import run
from elivepatch.trial.case import TrialCase
from elivepatch.trial.guest_protocol import Records, Step

PHASES = ("before", "during", "after", "again")
"""The phases of a report, and once more after the livepatch was loaded again."""

SEARCH_LIMIT_S = 5.0
"""Time for all searches of one case together."""

_ANSWERS = {"true": True, "false": False}
_EXCERPT_LINES = 25
_OUT_OF_TIME = 137  # 128 + SIGKILL, of timeout(1) in init.sh


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One expectation, what its command printed in each phase, and whether the pattern was found there.

    A phase that was not reached has no step and no match; a match is None too where looking for it took too long.
    """

    expectation: Expectation
    steps: Mapping[str, Step]
    matches: Mapping[str, bool | None]

    @property
    def met(self) -> bool:
        """Whether the pattern is found while the livepatch is enabled and only then."""
        return all(self.matches.get(phase) is (phase == "during") for phase in ("before", "during", "after"))

    @property
    def reverted(self) -> bool:
        """Whether the command's output after the livepatch is again what it was before, as far as the pattern tells."""
        after = self.matches.get("after")
        return after is not None and after is self.matches.get("before")

    @property
    def observation(self) -> Observation:
        """What goes into the report."""
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
        """Yield what is not as expected in the phases that were reached."""
        name = f"`{_short(self.expectation.command)}`"
        pattern = f"`{_short(self.expectation.pattern)}`"
        if any(match is None for match in self.matches.values()):
            yield _problem(
                "trial-expectation", f"Looking for {pattern} in the output of {name} takes longer than "
                f"{SEARCH_LIMIT_S:.0f} s.", "Write the pattern without nested repetition such as (a+)+.",
            )  # fmt: skip
        if self.matches.get("before"):
            yield self._told(
                "before", "trial-expectation", f"{name} matches {pattern} without the livepatch.",
                "Expect something that only the patched kernel prints, or the trial shows nothing.",
            )  # fmt: skip
        if self.matches.get("during") is False:
            yield self._told(
                "during", "trial-expectation", f"{name} does not match {pattern} while the livepatch is enabled.",
                "Compare the output with the pattern; is the patched code what prints it?",
            )  # fmt: skip
        if self.matches.get("after") and not self.matches.get("before"):
            yield self._told(
                "after", "trial-not-reverted", f"{name} still matches {pattern} after the livepatch was disabled.",
                "The patch changes state that outlives it; undo that in its unpatch callbacks.",
            )  # fmt: skip
        if self.matches.get("during") and self.matches.get("again") is False:
            yield self._told(
                "again", "trial-reload", f"{name} does not match {pattern} after the livepatch was loaded again.",
                "The first time it did: look for state that the patch leaves behind.",
            )  # fmt: skip

    def _told(self, phase: str, code: str, message: str, advice: str) -> Problem:
        step = self.steps[phase]
        if step.status == _OUT_OF_TIME:
            advice += " The command was stopped because it did not end in time."
        return _problem(code, message, advice, step.words)


def observe(scope: str, case: TrialCase, records: Records) -> tuple[Observed, ...]:
    """Return the expectations of the case with what was seen of each."""
    steps = [
        {phase: step for phase in PHASES if (step := records.step(scope, f"{phase}.{number:03}"))}
        for number in range(len(case.expectations))
    ]
    places = [(number, phase) for number, seen in enumerate(steps) for phase in seen]
    pairs = [(case.expectations[number].pattern, steps[number][phase].words) for number, phase in places]
    answers = dict(zip(places, search_patterns(pairs), strict=True))
    return tuple(
        Observed(expectation=expectation, steps=seen, matches={phase: answers[number, phase] for phase in seen})
        for number, (expectation, seen) in enumerate(zip(case.expectations, steps, strict=True))
    )


def search_patterns(pairs: Sequence[tuple[str, str]]) -> tuple[bool | None, ...]:
    """Return for each pair of pattern and text whether the text has a match (`re.search`, MULTILINE).

    All pairs together have five seconds; those not answered by then are None. The search runs in another process
    (regex_worker.py) because a pattern comes from a stranger and may backtrack for years.
    """
    if not pairs:
        return ()
    with as_file(files("elivepatch.trial").joinpath("regex_worker.py")) as program:
        done = run(
            [sys.executable, "-I", "-S", program], stdin=json.dumps([list(pair) for pair in pairs]).encode(),
            timeout_s=SEARCH_LIMIT_S,
        )  # fmt: skip
    answers = [_ANSWERS.get(line) for line in done.text.splitlines()[: len(pairs)]]
    return tuple(answers + [None] * (len(pairs) - len(answers)))


def _problem(code: str, message: str, advice: str, output: str = "") -> Problem:
    lines = [line[:400] for line in output.splitlines()]
    excerpt = "\n".join(lines[:_EXCERPT_LINES])
    return Problem(code=code, kind=Kind.FAILURE, message=message, advice=advice, excerpt=excerpt)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
