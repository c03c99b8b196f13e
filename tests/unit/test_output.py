# SPDX-License-Identifier: GPL-2.0-or-later
"""Output of commands: programs get one document, people get lines, terminals get no control characters."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.errors import Kind, Problem
from elivepatch.model.progress import Event
from elivepatch.output import Output, printable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def spoken(*, as_json: bool = False, terminal: bool = False) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), Terminal() if terminal else io.StringIO()
    return Output(as_json=as_json, out=out, err=err), out, err


PROBLEM = Problem(code="c", kind=Kind.FAILURE, message="Message.", advice="Advice.", excerpt="a\nb")


def test_people_get_lines_and_machines_one_document() -> None:
    for as_json in (False, True):
        output, out, _ = spoken(as_json=as_json)
        output.line("a line")
        output.table(("A", "B"), [("1", "x")])
        output.document({"a": 1})
        if as_json:
            assert json.loads(out.getvalue()) == {"a": 1}
        else:
            assert out.getvalue() == "a line\nA  B\n1  x\n"


def test_a_listing_is_one_document_with_an_element_a_line() -> None:
    for items in ([], [{"id": 1}], [{"id": 1}, {"id": "\n"}]):
        output, out, _ = spoken(as_json=True)
        output.listing(items)
        assert json.loads(out.getvalue()) == items
        assert len(out.getvalue().splitlines()) == (len(items) + 2 if items else 1)


def test_a_listing_that_fails_half_way_leaves_one_document_about_the_problem() -> None:
    def items() -> Iterator[object]:
        yield {"id": 1}
        raise OSError(5, "Input/output error")

    output, out, _ = spoken(as_json=True)
    with pytest.raises(OSError, match="Input"):
        output.listing(items())
    output.problem(PROBLEM)
    assert json.loads(out.getvalue()) == {"problem": PROBLEM.as_dict()}


def test_a_problem_after_a_listing_goes_to_standard_error() -> None:
    output, out, err = spoken(as_json=True)
    output.listing([{"id": 1}])
    output.problem(PROBLEM)
    assert json.loads(out.getvalue()) == [{"id": 1}]
    assert err.getvalue().startswith("error: Message. [c]\n")


def test_a_problem_is_a_sentence_what_matters_and_a_next_step() -> None:
    output, out, err = spoken()
    output.problem(PROBLEM)
    assert (out.getvalue(), err.getvalue()) == ("", "error: Message. [c]\n    a\n    b\nhint: Advice.\n")


def test_a_problem_is_a_document_if_json_was_requested() -> None:
    output, out, _ = spoken(as_json=True)
    output.problem(PROBLEM)
    assert json.loads(out.getvalue()) == {"problem": PROBLEM.as_dict()}


def test_progress_is_one_line_on_a_terminal_and_gone_before_the_next_words() -> None:
    output, _, err = spoken(terminal=True)
    output.progress(Event(stage="compile", message="first", fraction=0.5))
    output.progress(Event(stage="compile", message="second", fraction=0.6))
    output.note("said")
    assert "\n" not in err.getvalue().removesuffix("said\n")
    assert err.getvalue().endswith("\r\x1b[Ksaid\n")


def test_progress_elsewhere_is_whole_lines_without_the_steps_between() -> None:
    output, _, err = spoken()
    for fraction in (0.0, 0.3, 0.7, 1.0, None):
        output.progress(Event(stage="compile", message="x", fraction=fraction))
    assert len(err.getvalue().splitlines()) == 3


@given(st.text())
def test_nothing_that_is_printed_moves_a_cursor(text: str) -> None:
    assert not {character for character in printable(text) if character != "\t" and ord(character) < 0x20}
    assert not set(printable(text)) & set("\x1b\x7f\x9b\u202e\u2066")
