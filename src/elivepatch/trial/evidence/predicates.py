# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers of a predicate, phase by phase: the hole must be open, closed while the livepatch is enabled, open again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from elivepatch.model.errors import Kind, Problem
from elivepatch.model.predicate import CLOSED, LATE, OPEN, UNABLE
from elivepatch.model.trial import Expectation, Observation
from elivepatch.trial.guest_protocol import Step

_WORDS = {CLOSED: "closed", OPEN: "open", UNABLE: "not tried", LATE: "too late"}
_WANTED = {"before": "open", "during": "closed", "after": "open", "again": "closed", "over": "closed"}
_EXCERPT_LINES = 25
_CONVENTION = "Its exit status must be 0 if the hole is closed, 1 if it is open, 77 if it cannot be tried here."


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPredicate:
    """One predicate with its step in each phase. A phase that was not reached has no step."""

    expectation: Expectation
    steps: Mapping[str, Step]

    @property
    def phases(self) -> set[str]:
        """The phases that were reached."""
        return set(self.steps)

    @property
    def seen(self) -> dict[str, str]:
        """A word for each phase that was reached."""
        return {phase: _WORDS.get(step.status, f"status {step.status}") for phase, step in self.steps.items()}

    @property
    def tried(self) -> bool:
        """False if the predicate cannot be tried in this guest: it says so in every phase."""
        return not self.steps or set(self.seen.values()) != {_WORDS[UNABLE]}

    @property
    def met(self) -> bool:
        """True if the hole is closed while the livepatch is enabled, and open before and after."""
        return all(self.seen.get(phase) == _WANTED[phase] for phase in ("before", "during", "after"))

    @property
    def reverted(self) -> bool:
        """True if the predicate gives the same answer after the livepatch was disabled as before it was loaded."""
        return "after" in self.steps and self.seen["after"] == self.seen.get("before")

    @property
    def out_of_time(self) -> bool:
        """True if the predicate was stopped at its time limit in a phase."""
        return any(step.status == LATE for step in self.steps.values())

    @property
    def observation(self) -> Observation:
        """The observation for the report."""
        words = {phase: step.words for phase, step in self.steps.items()}
        return Observation(
            command=self.expectation.command,
            pattern="",
            before=words.get("before", ""),
            during=words.get("during", ""),
            after=words.get("after", ""),
            met=self.met,
            seen=self.seen,
            tried=self.tried,
        )

    def problems(self) -> Iterator[Problem]:
        """Yield the first problem: later answers mean nothing if the unpatched kernel did not show the hole.

        An answer that says nothing about the hole, without the livepatch, is an error and no verdict on the patch.
        """
        before = self.seen.get("before")
        if before is None or not self.tried:
            return
        name = f"The predicate {self.expectation.command}"
        if before == _WORDS[CLOSED]:
            yield self._problem(
                "before", "trial-predicate", f"{name} finds the hole closed without the livepatch: it proves nothing.",
                "Write a predicate that ends with 1 on the unpatched kernel, and try it there first.",
            )  # fmt: skip
        elif before != _WORDS[OPEN]:
            yield self._problem(
                "before", "trial-predicate-broken", f"{name} says nothing about the hole on the unpatched kernel: "
                f"{self._told('before')}.", _CONVENTION, Kind.ERROR,
            )  # fmt: skip
        else:
            yield from self._after_open(name)

    def _after_open(self, name: str) -> Iterator[Problem]:
        for phase, code, where, advice in (
            ("during", "trial-predicate", "while the livepatch is enabled",
             "Compare the patch with what the predicate does, and check that the predicate runs the patched code."),
            ("after", "trial-not-reverted", "after the livepatch was disabled",
             "The patch changes state that stays when it is disabled; undo that in its unpatch callbacks."),
            ("again", "trial-reload", "after the livepatch was loaded again",
             "The first time it was closed: look for state that the patch leaves behind."),
            ("over", "trial-over", "after the livepatch has replaced an earlier one",
             "Alone it was closed: look for state that the earlier livepatch keeps or leaves behind."),
        ):  # fmt: skip
            seen = self.seen.get(phase)
            if seen is None or seen == _WANTED[phase]:
                continue
            still = seen in {_WORDS[OPEN], _WORDS[CLOSED]}
            what = f"finds the hole {seen}" if still else f"does not find the hole {_WANTED[phase]}"
            told = "" if still else f": {self._told(phase)}"
            yield self._problem(phase, code, f"{name} {what} {where}{told}.", advice if still else _CONVENTION)
            return

    def _told(self, phase: str) -> str:
        step = self.steps[phase]
        if step.status == LATE:
            limits = self.expectation.predicate.limits if self.expectation.predicate is not None else None
            return "it was stopped at its time limit" + (f" of {limits.seconds} s" if limits else "")
        if step.status == UNABLE:
            return "it cannot be tried there"
        if step.status > 128:
            return f"signal {step.status - 128} ended it"
        return f"it ended with status {step.status}"

    def _problem(self, phase: str, code: str, message: str, advice: str, kind: Kind = Kind.FAILURE) -> Problem:
        lines = [line[:400] for line in self.steps[phase].words.splitlines()]
        return Problem(code=code, kind=kind, message=message, advice=advice, excerpt="\n".join(lines[:_EXCERPT_LINES]))
