# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims of a proof: what it shows and, with the same care, what it does not show."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs import ORIGIN, THOROUGH, Facts, observation
from simulated_host import KEY

from elivepatch.client.commands.report import trial_lines
from elivepatch.client.proof.claims import not_proved, proved, tried_of
from elivepatch.client.proof.policy import proof_findings
from elivepatch.model.build import Note, PatchedFunction
from elivepatch.model.errors import TrustError
from elivepatch.model.trial import CalledFunction, OverEarlier, SeenFunction, SeenOutside, TrialReport
from elivepatch.settings import ClientSettings
from elivepatch.trust.statement import Statement

FUNCTIONS = tuple(
    PatchedFunction(object="vmlinux", name=name, sympos=0, source="fs/proc/meminfo.c")
    for name in ("one", "two", "three")
)
FACTS = Facts(functions=FUNCTIONS)
BOTH = replace(ORIGIN, builders={"objects": 3, "klp": 2}, checks=ORIGIN.checks | {"second-builder": 3})
ALL = FACTS.trial(observations=(observation(),), debug=THOROUGH)


def statement(trial: TrialReport | None, facts: Facts = FACTS) -> Statement:
    return facts.statement(KEY.public, trial)


def codes(trial: TrialReport | None, facts: Facts = FACTS) -> list[str]:
    return [one.code for one in not_proved(statement(trial, facts))]


def words(trial: TrialReport | None, code: str, facts: Facts = FACTS) -> str:
    return next(one.message for one in not_proved(statement(trial, facts)) if one.code == code)


def test_of_a_livepatch_with_everything_nothing_is_left_to_say() -> None:
    facts = replace(FACTS, origin=BOTH, request={"paranoid": True})
    assert codes(ALL, facts) == []
    assert [one.code for one in proved(statement(ALL, facts))] == [
        "sample", "fidelity", "layout", "account", "references", "entries", "second-builder",
    ]  # fmt: skip


def test_a_livepatch_without_a_trial_was_never_loaded() -> None:
    assert words(None, "trial") == "trial: none. The request left it out, so the livepatch was never loaded"
    assert tried_of(statement(None)) is None
    assert set(codes(None)) == {"trial", "second-builder"}


LACKS: dict[str, tuple[Callable[[], TrialReport], str, str]] = {
    "a function that never ran": (
        lambda: replace(ALL, functions=(*_called(2), CalledFunction(object="vmlinux", function="three", calls=0))),
        "did-not-run", "1 of 3 replaced functions did not run in the trial: vmlinux:three",
    ),
    "a function that was not counted": (
        lambda: replace(ALL, functions=(*_called(2), CalledFunction(object="vmlinux", function="three", calls=None))),
        "not-counted", "the calls of 1 of 3 replaced functions were not counted: vmlinux:three",
    ),
    "functions of which nothing is said": (
        lambda: replace(ALL, functions=_called(1)), "not-counted",
        "the calls of 2 of 3 replaced functions were not counted",
    ),
    "an object that was not live": (
        lambda: FACTS.trial(not_live=["kvm_intel"]), "not-live",
        "kvm_intel was not live in the trial: the guest has no such hardware",
    ),
    "a predicate that could not be tried": (
        lambda: replace(ALL, observations=(observation(met=False, tried=False, before="not tried"),)), "predicate",
        "the predicate lamp.expect.c could not be tried",
    ),
    "no expectation": (
        lambda: FACTS.trial(), "effect", "that the hole is closed: the request had no expectation and no predicate"
    ),
    "a trial that was not seen from outside": (
        lambda: replace(ALL, outside=SeenOutside(seen=False, why_not="no BTF")), "outside",
        "the trial was not seen from outside the guest: no BTF. What is said of it are the guest's own words",
    ),
    "a function that was not seen to lead to the new one": (
        lambda: _seen(leads_to_new=None), "outside",
        "from outside, 1 replaced functions were not seen to lead to the new one: vmlinux:one",
    ),
    "a function that was not seen to come back": (
        lambda: _seen(restored=None), "outside",
        "from outside, 1 replaced functions were not seen to have their entry back: vmlinux:one",
    ),
    "no debugging kernel": (
        lambda: replace(ALL, debug=replace(THOROUGH, outcome=None, why_not="the server has none")), "debug",
        "it was not tried on a debugging kernel: the server has none",
    ),
    "a function that the debugging kernel does not have": (
        lambda: replace(ALL, debug=replace(THOROUGH, missing=("vmlinux:two",))), "debug",
        "not replaced on the debugging kernel: vmlinux:two",
    ),
    "a function that was not seen on the debugging kernel": (
        lambda: replace(ALL, debug=replace(THOROUGH, functions=(*THOROUGH.functions, _idle("two")))), "debug",
        "not seen to run on the debugging kernel: vmlinux:two",
    ),
    "an expectation that was not tried and left no word": (
        lambda: replace(ALL, observations=(observation(met=False, tried=False),)), "predicate",
        "the predicate /proc/meminfo could not be tried",
    ),
    "no second load": (
        lambda: replace(ALL, reloaded=False), "second-load", "it was not loaded a second time in the trial"
    ),
    "no earlier livepatch": (
        lambda: replace(ALL, over_earlier=OverEarlier(name="", result="not-tried", words="there is none")),
        "over-earlier", "it was not tried over an earlier livepatch: there is none",
    ),
    "no workload": (
        lambda: replace(ALL, workload_left_out="it is turned off"), "workload",
        "the workload was left out: it is turned off",
    ),
}  # fmt: skip


def _called(count: int) -> tuple[CalledFunction, ...]:
    return tuple(CalledFunction(object="vmlinux", function=one.name, calls=9) for one in FUNCTIONS[:count])


def _idle(name: str) -> CalledFunction:
    return CalledFunction(object="vmlinux", function=name, calls=0)


def _seen(*, leads_to_new: bool | None = True, restored: bool | None = True) -> TrialReport:
    one = SeenFunction(object="vmlinux", name="one", redirected=True, leads_to_new=leads_to_new, restored=restored)
    return replace(ALL, outside=SeenOutside(seen=True, functions=(one,)))


@pytest.mark.parametrize("what", LACKS)
def test_what_a_trial_lacks_is_said(what: str) -> None:
    make, code, sentence = LACKS[what]
    assert words(make(), code) == sentence
    assert code not in codes(ALL)


@pytest.mark.parametrize("check", ["sample", "fidelity", "layout", "account", "references", "entries"])
def test_a_check_that_nobody_counted_is_not_proved(check: str) -> None:
    for checks in (
        {name: count for name, count in ORIGIN.checks.items() if name != check},
        ORIGIN.checks | {check: 0},
    ):
        facts = replace(FACTS, origin=replace(ORIGIN, checks=checks))
        assert words(ALL, check, facts).startswith("not checked: that ")
        assert check not in [one.code for one in proved(statement(ALL, facts))]


def test_an_account_of_functions_alone_is_less_than_one_of_everything() -> None:
    checks = {name: count for name, count in ORIGIN.checks.items() if name != "account"} | {"functions": 1}
    facts = replace(FACTS, origin=replace(ORIGIN, checks=checks))
    assert "account" in codes(ALL, facts)
    assert "functions" in [one.code for one in proved(statement(ALL, facts))]
    assert "functions" not in codes(ALL)


def test_a_base_that_was_accepted_without_proof_is_named_first() -> None:
    unproved = Note(code="unproved", message="The base was accepted without proof that it is the host's kernel.")
    assert codes(ALL, replace(FACTS, notes=(unproved,)))[0] == "kernel"


def test_the_trial_is_read_back_as_the_report_has_it() -> None:
    tried = tried_of(statement(ALL))
    assert tried is not None
    assert (tried.outcome, tried.accelerator, tried.debug) == (
        ALL.outcome,
        ALL.accelerator,
        replace(THOROUGH, seconds=61),
    )
    assert (tried.outside, tried.functions, tried.over_earlier) == (ALL.outside, ALL.functions, ALL.over_earlier)


WHOLE = statement(replace(ALL, observations=(observation(), observation(before="open", during="closed", after="open"))))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every part of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([path for path in places(WHOLE.document) if path]),
    st.sampled_from([None, True, False, 0, 7, "", "x", "partly", "none", "not-run", "\x1b[2J", [], {}]),
)
def test_everything_that_a_statement_may_say_can_be_put_into_words(path: tuple[Any, ...], value: Any) -> None:
    changed: Any = deepcopy(WHOLE.document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        found = Statement.of(changed)
    except TrustError:
        return
    assert all(one.message for one in (*proved(found), *not_proved(found)))
    tried = tried_of(found)
    assert (tried is None) is (found.trial.outcome == "none")
    assert tried is None or all(trial_lines(tried))
    assert proof_findings(found, ClientSettings(), found.finished)
