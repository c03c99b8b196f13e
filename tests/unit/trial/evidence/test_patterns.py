# SPDX-License-Identifier: GPL-2.0-or-later
"""Patterns are searched by Python's rules and for a limited time."""

from __future__ import annotations

import time

import pytest

from elivepatch.trial.evidence import expectations
from elivepatch.trial.evidence.expectations import search_patterns


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
    monkeypatch.setattr(expectations, "SEARCH_LIMIT_S", 0.5)
    started = time.monotonic()
    assert search_patterns([("b", "ab"), ("(a+)+$", "a" * 60 + "b"), ("a", "a")]) == (True, None, None)
    assert time.monotonic() - started < 3
