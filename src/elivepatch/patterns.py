# SPDX-License-Identifier: GPL-2.0-or-later
"""Regular expressions of strangers: compiled and searched for in another process (regex_worker.py) with limits."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files

from elivepatch.model.errors import UsageError
from elivepatch.process import run

SEARCH_LIMIT_S = 5.0
"""Time for all searches of one case together."""

PATTERN_LIMIT = 500
"""Characters of one pattern."""

_COMPILE_LIMIT_S = 2.0


def search_patterns(pairs: Sequence[tuple[str, str]]) -> tuple[bool | None, ...]:
    """Return for each pair of pattern and text whether the text has a match (`re.search`, MULTILINE).

    All pairs together have five seconds; those not answered by then are None.
    """
    answers = [answer if isinstance(answer, bool) else None for answer in _answers(pairs, SEARCH_LIMIT_S)]
    return tuple(answers)


def require_patterns(patterns: Sequence[str]) -> None:
    """Raise UsageError with the code `expectation` if `faults` finds one that cannot be used."""
    for why in filter(None, faults(patterns)):
        raise UsageError(
            "expectation", why,
            advice="Python's syntax applies; write few and short patterns, and ( and [ as characters with a backslash.",
        )  # fmt: skip


def faults(patterns: Sequence[str]) -> list[str]:
    """Return for each pattern the sentence why it cannot be used, empty if it can.

    One is at fault if it is no regular expression, longer than 500 characters, or not compiled in time. All together
    have two seconds: a few characters can cost the compiler of patterns 13 ms.
    """
    short = [pattern for pattern in patterns if len(pattern) <= PATTERN_LIMIT]
    answers = dict(zip(short, _answers([(pattern, None) for pattern in short], _COMPILE_LIMIT_S), strict=True))
    return [_fault(pattern, answers.get(pattern)) for pattern in patterns]


def _fault(pattern: str, answer: bool | str | None) -> str:
    if answer is True:
        return ""
    why = f"is not a regular expression: {answer}"
    if len(pattern) > PATTERN_LIMIT:
        why = f"is longer than {PATTERN_LIMIT} characters"
    elif answer is None:
        why = f"cannot be compiled with the others in {_COMPILE_LIMIT_S:.0f} s"
    return f"The pattern {pattern[:80]!r} {why}."


def _answers(pairs: Sequence[tuple[str, str | None]], limit_s: float) -> list[bool | str | None]:
    """Return the answer of the process to each pair, None for those that it did not answer in time."""
    if not pairs:
        return []
    with as_file(files("elivepatch").joinpath("regex_worker.py")) as program:
        done = run(
            [sys.executable, "-I", "-S", program], stdin=json.dumps([list(pair) for pair in pairs]).encode(),
            timeout_s=limit_s,
        )  # fmt: skip
    # A process that was ended may have written a part of its last line.
    whole, _, _ = done.text.rpartition("\n")
    answers = [json.loads(line) for line in whole.splitlines()]
    return answers + [None] * (len(pairs) - len(answers))
