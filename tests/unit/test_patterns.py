# SPDX-License-Identifier: GPL-2.0-or-later
"""Patterns are searched by Python's rules and and compiled for a limited time."""

from __future__ import annotations

import time

import pytest

from elivepatch import patterns
from elivepatch.model.errors import UsageError
from elivepatch.patterns import PATTERN_LIMIT, require_patterns, search_patterns

SLOW = [f"(?i){number}" + "[\x01-\U0010ffff]" * 98 for number in range(64)]
"""Patterns of fewer than 500 characters, each of which takes about a second to compile."""


def test_a_pattern_is_searched_line_by_line() -> None:
    text = "one\ntwo 2\nthree\n"
    assert search_patterns([("^two [0-9]$", text), ("^2", text), ("three$", text), ("four", text), ("ONE", text)]) == (
        True, False, True, False, False,
    )  # fmt: skip


def test_nothing_to_look_for_needs_no_program() -> None:
    assert search_patterns([]) == ()


def test_any_character_gets_through_to_the_pattern() -> None:
    pairs = [("\u00e9\u2028\U0001f40d", "x\u00e9\u2028\U0001f40dy"), ("\\0", "a\0b"), ("\ufffd", "a\ufffd")]
    assert search_patterns(pairs) == (True, True, True)


def test_a_pattern_that_backtracks_for_ever_is_given_up_and_earlier_answers_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patterns, "SEARCH_LIMIT_S", 0.5)
    started = time.monotonic()
    assert search_patterns([("b", "ab"), ("(a+)+$", "a" * 60 + "b"), ("a", "a")]) == (True, None, None)
    assert time.monotonic() - started < 3


def refused(*given: str) -> str:
    with pytest.raises(UsageError) as caught:
        require_patterns(given)
    assert caught.value.problem.code == "expectation"
    return caught.value.problem.message


def test_patterns_that_compile_are_accepted() -> None:
    require_patterns([])
    require_patterns(["X+", "^VmallocChunk: +[0-9]+ kB$", "\u00e9", "\0"])


@pytest.mark.parametrize("pattern", ["(", "[", "[z-a]", "a{99999999999999999999}", "(?P<x>a)(?P<x>b)"])
def test_what_is_no_pattern_is_refused_with_the_reason(pattern: str) -> None:
    assert "is not a regular expression: " in refused("a", pattern)


def test_a_pattern_that_is_too_long_is_refused_unread() -> None:
    assert f"is longer than {PATTERN_LIMIT} characters" in refused("x" * (PATTERN_LIMIT + 1))


def test_patterns_that_compile_for_ever_are_given_up() -> None:
    started = time.monotonic()
    assert "cannot be compiled with the others in 2 s" in refused("a", *SLOW)
    assert time.monotonic() - started < 20
