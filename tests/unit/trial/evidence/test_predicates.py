# SPDX-License-Identifier: GPL-2.0-or-later
"""The answers of a predicate prove a patch only as open, closed, open; anything else has a word of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.errors import Kind
from elivepatch.model.predicate import Predicate
from elivepatch.model.trial import Expectation
from elivepatch.trial.evidence.predicates import ObservedPredicate
from elivepatch.trial.guest_protocol import Step

PHASES = ("before", "during", "after", "again", "over")
STATUSES = (0, 1, 77, 124, 139, 2)


def observed(*statuses: int) -> ObservedPredicate:
    predicate = Predicate(name="lamp.expect.c", source="int main(void) { return 1; }")
    steps = {phase: Step(status, f"{phase}\n") for phase, status in zip(PHASES, statuses, strict=False)}
    return ObservedPredicate(expectation=Expectation.of(predicate), steps=steps)


def test_a_hole_that_is_open_closed_and_open_again_proves_the_patch() -> None:
    seen = observed(1, 0, 1, 0)
    assert list(seen.problems()) == []
    assert (seen.met, seen.reverted, seen.tried, seen.out_of_time) == (True, True, True, False)
    assert seen.observation.seen == {"before": "open", "during": "closed", "after": "open", "again": "closed"}
    assert seen.observation.met
    assert seen.observation.before == "before\n"
    assert seen.observation.command == "lamp.expect.c"


@pytest.mark.parametrize(
    ("statuses", "code", "kind", "words"),
    [
        ((0, 0, 0, 0), "trial-predicate", Kind.FAILURE, "closed without the livepatch: it proves nothing"),
        ((1, 1, 1, 1), "trial-predicate", Kind.FAILURE, "open while the livepatch is enabled"),
        ((1, 0, 0, 0), "trial-not-reverted", Kind.FAILURE, "closed after the livepatch was disabled"),
        ((1, 0, 1, 1), "trial-reload", Kind.FAILURE, "open after the livepatch was loaded again"),
        ((124, 0, 124, 0), "trial-predicate-broken", Kind.ERROR, "stopped at its time limit of 5 s"),
        ((139, 0, 139, 0), "trial-predicate-broken", Kind.ERROR, "signal 11 ended it"),
        ((2, 0, 2, 0), "trial-predicate-broken", Kind.ERROR, "it ended with status 2"),
        ((77, 0, 77, 0), "trial-predicate-broken", Kind.ERROR, "it cannot be tried there"),
        ((1, 124, 1, 0), "trial-predicate", Kind.FAILURE, "enabled: it was stopped at its time limit"),
        ((1, 77, 1, 0), "trial-predicate", Kind.FAILURE, "it cannot be tried there"),
        ((1, 0, 124, 0), "trial-not-reverted", Kind.FAILURE, "does not find the hole open after"),
        ((1, 0, 1, 0, 1), "trial-over", Kind.FAILURE, "open after the livepatch has replaced an earlier one"),
        ((1, 0, 1, 3), "trial-reload", Kind.FAILURE, "does not find the hole closed after"),
    ],
)  # fmt: skip
def test_any_other_answer_is_told_by_what_it_means(
    statuses: tuple[int, ...], code: str, kind: Kind, words: str
) -> None:
    seen = observed(*statuses)
    (problem,) = seen.problems()
    assert (problem.code, problem.kind) == (code, kind)
    assert words in problem.message
    assert problem.message.startswith("The predicate lamp.expect.c ")
    assert problem.excerpt


def test_a_predicate_that_cannot_be_tried_is_never_met() -> None:
    seen = observed(77, 77, 77, 77)
    assert list(seen.problems()) == []
    assert (seen.tried, seen.met, seen.observation.tried, seen.observation.met) == (False, False, False, False)


def test_phases_that_were_not_reached_are_not_answered() -> None:
    assert list(observed().problems()) == []
    assert not observed().met
    seen = observed(1, 0)
    assert list(seen.problems()) == []
    assert (seen.met, seen.reverted) == (False, False)
    assert seen.phases == {"before", "during"}


@given(st.lists(st.sampled_from(STATUSES) | st.integers(0, 255), min_size=4, max_size=4))
def test_no_other_answers_pass(statuses: list[int]) -> None:
    seen = observed(*statuses)
    proved = statuses == [1, 0, 1, 0]
    assert (not list(seen.problems()) and seen.tried) == proved
    assert seen.met == (statuses[:3] == [1, 0, 1])
