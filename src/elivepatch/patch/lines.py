# SPDX-License-Identifier: GPL-2.0-or-later
"""Line numbers of unchanged code: they stay the same in a patched source.

A hunk that adds a line shifts every line below it, and `__LINE__` (in WARN, lockdep keys, generated names) turns that
into changed code in functions that the patch does not touch. A `#line` directive after each hunk gives unchanged lines
their old numbers back (C11 6.10.4; the kernel's scripts/livepatch/fix-patch-lines has the same purpose).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_BRANCH = re.compile(r"\s*#\s*(?:else|elif|elifdef|elifndef|endif)\b")
_TOKEN = re.compile(
    r"""(?P<comment>/\*) | (?P<line>//) | (?P<text>"(?:\\.|[^"\\])*"?)
        | (?P<char>'(?:\\.|[^'\\])*'?) | (?P<paren>[()])""",
    re.VERBOSE,
)


class Change(NamedTuple):
    """A run of old lines that new lines replace; numbers count from 1, as in a diff without context."""

    old_start: int
    old_count: int
    new_start: int
    new_count: int


def read_changes(diff: str) -> list[Change]:
    """Return the changes of one file from the output of `diff -U0`."""
    changes = []
    for found in map(_HUNK.match, diff.split("\n")):
        if found:
            old, old_count, new, new_count = (int(number) if number is not None else 1 for number in found.groups())
            # For an empty side, the diff gives the number of the line before it.
            changes.append(Change(old + (old_count == 0), old_count, new + (new_count == 0), new_count))
    return changes


def preserve(text: str, changes: Iterable[Change]) -> str:
    """Return the patched `text` with `#line` directives that give every unchanged line its old number, if possible.

    A directive cannot be inside a comment, a continued line or the arguments of a macro; then it comes before the next
    line at which it can be.
    """
    # Not splitlines(): to a compiler only \n ends a line, and sources hold form feeds and bytes that look like NEL.
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    numbers = _old_numbers(len(lines), list(changes))
    result: list[str] = []
    scanner = _Scanner()
    # The compiler's number of a line minus its number in `text`; None if it is not known.
    ahead: int | None = 0
    for number, line in enumerate(lines, 1):
        old = numbers[number - 1]
        if old is not None and scanner.between_statements and (ahead is None or old != number + ahead):
            result.append(f"#line {old}\n")
            ahead = old - number
        result.append(line)
        scanner.feed(line)
        if len(result) > number and _BRANCH.match(line):
            # The directive may have been in a part that the preprocessor skips: then it had no effect.
            ahead = None
    return "".join(result)


def forget(text: str) -> str:
    """Return the text without the directives that `preserve` added."""
    return re.sub(r"(?m)^#line \d+\n", "", text)


def _old_numbers(count: int, changes: Sequence[Change]) -> list[int | None]:
    """Return the old number of each line, None for a line that is new."""
    numbers: list[int | None] = []
    old = 1
    for change in changes:
        while len(numbers) + 1 < change.new_start:
            numbers.append(old)
            old += 1
        numbers.extend([None] * change.new_count)
        old = change.old_start + change.old_count
    while len(numbers) < count:
        numbers.append(old)
        old += 1
    return numbers


class _Scanner:
    """Reader of just enough C to know if a directive may be before the next line."""

    def __init__(self) -> None:
        self._in_comment = False
        self._continued = False
        self._in_directive = False
        self._depth = 0

    @property
    def between_statements(self) -> bool:
        return not (self._in_comment or self._continued or self._depth)

    def feed(self, line: str) -> None:
        body = line.rstrip("\r\n")
        if not self._continued and not self._in_comment:
            self._in_directive = body.lstrip().startswith("#")
            if body[:1] in {"{", "}"}:
                # A brace in the first column also ends parentheses that branches of an #if have left open.
                self._depth = 0
        position = 0
        while position < len(body):
            if self._in_comment:
                end = body.find("*/", position)
                if end < 0:
                    break
                self._in_comment, position = False, end + 2
                continue
            found = _TOKEN.search(body, position)
            if found is None or found["line"]:
                break
            position = found.end()
            if found["comment"]:
                self._in_comment = True
            elif found["paren"] and not self._in_directive:
                self._depth = max(0, self._depth + (1 if found["paren"] == "(" else -1))
        self._continued = body.endswith("\\")
