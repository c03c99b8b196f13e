# SPDX-License-Identifier: GPL-2.0-or-later
"""Problems: the fields that people and programs read, and the exit status that follows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.codes import CODES, NOTES, problem
from elivepatch.model.errors import (
    BuildStopped,
    ElivepatchError,
    EnvironmentFault,
    ExitStatus,
    HostError,
    Kind,
    Problem,
    TrustError,
    UsageError,
)

problems = st.builds(
    Problem, code=st.text(), kind=st.sampled_from(Kind), message=st.text(), advice=st.text(), excerpt=st.text()
)


@given(problems)
def test_a_problem_comes_back_from_its_json(one: Problem) -> None:
    assert Problem.from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_a_problem_without_an_excerpt_is_read() -> None:
    data = {"code": "a", "kind": "error", "message": "b", "advice": "c"}
    assert Problem.from_dict(data).excerpt == ""


@pytest.mark.parametrize("data", [{}, {"code": "a"}, {"code": "a", "kind": "odd", "message": "b", "advice": "c"}])
def test_a_document_that_is_no_problem_is_refused(data: dict[str, str]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Problem.from_dict(data)


def test_every_kind_has_its_stable_exit_status() -> None:
    assert {kind: kind.exit_status for kind in Kind} == {
        Kind.VERDICT: 3,
        Kind.FAILURE: 1,
        Kind.USAGE: 2,
        Kind.ERROR: 4,
        Kind.TRUST: 5,
        Kind.HOST: 6,
    }
    assert int(ExitStatus.OK) == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UsageError, Kind.USAGE),
        (EnvironmentFault, Kind.ERROR),
        (TrustError, Kind.TRUST),
        (HostError, Kind.HOST),
    ],
)
def test_every_exception_carries_a_problem_of_its_kind(error: type[ElivepatchError], kind: Kind) -> None:
    raised = error("some-code", "Something.", advice="Do this.", excerpt="line")
    assert raised.problem == Problem(
        code="some-code", kind=kind, message="Something.", advice="Do this.", excerpt="line"
    )
    assert str(raised) == "Something."


def test_a_stopped_build_carries_the_problem_it_was_stopped_for() -> None:
    stopped = BuildStopped(problem("no-change", "Nothing changed."))
    assert stopped.problem.kind is Kind.VERDICT
    assert str(stopped) == "Nothing changed."


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_is_a_stable_word_with_a_meaning_and_a_way_out(code: str) -> None:
    entry = CODES[code]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
    assert entry.kind in {Kind.VERDICT, Kind.FAILURE, Kind.ERROR}
    assert entry.meaning
    assert not entry.meaning.endswith(".")
    assert entry.meaning[0].islower()
    assert entry.advice.endswith(".")
    assert entry.advice[0].isupper()
    assert "|" not in entry.meaning + entry.advice


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_is_used_and_tested(code: str) -> None:
    top = Path(__file__).parents[3]
    for part in ("src/elivepatch", "tests"):
        files = [path for path in (top / part).rglob("*.py") if path.name not in {"codes.py", Path(__file__).name}]
        assert any(f'"{code}"' in path.read_text(encoding="utf-8") for path in files), part


def test_every_note_is_in_the_catalogue_and_every_one_there_is_used() -> None:
    top = Path(__file__).parents[3] / "src/elivepatch"
    texts = [path.read_text(encoding="utf-8") for path in top.rglob("*.py")]
    used = {code for text in texts for code in re.findall(r'Note\(\s*code="([^"]+)"', text)}
    assert used == NOTES.keys()


def test_a_problem_takes_kind_and_advice_from_the_catalogue() -> None:
    made = problem("header", "A header.", excerpt="x")
    assert made == Problem(
        code="header", kind=CODES["header"].kind, message="A header.", advice=CODES["header"].advice, excerpt="x"
    )


def test_a_code_outside_the_catalogue_cannot_be_used() -> None:
    with pytest.raises(KeyError):
        problem("made-up", "Something.")
