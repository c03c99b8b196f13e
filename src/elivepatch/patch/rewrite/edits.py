# SPDX-License-Identifier: GPL-2.0-or-later
"""Edits of a patched source by a rule, and the proposal: a patch that lists each change with its reason.

A rewrite works on whole files, before and after the series, and never on hunks, so that its proposal applies.
"""

from __future__ import annotations

import difflib
import itertools
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from elivepatch.model.build import RewriteStep
from elivepatch.model.errors import Problem
from elivepatch.patch.c_source import Definition, DefinitionKind, enclosing, read_definitions
from elivepatch.patch.headings import with_headings

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_INCLUDE = re.compile(r"\s*#\s*include\b")
_WORK_LIMIT = 50_000_000  # some ten seconds


class Edit(NamedTuple):
    """A run of old lines that became a run of new ones; both count from 1, and the ends are exclusive."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


class _TooMuchWork(Exception):
    """Two texts that take too long to compare."""


class _Matcher(difflib.SequenceMatcher[str]):
    """Comparison of lines with a limit: difflib looks at each pair of equal lines again for each block that it finds.

    A file whose lines repeat, as the author of a patch can make one, would take days.
    """

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        super().__init__(None, old, new, autojunk=False)
        counted = Counter(new)
        self._pairs = sum(counted[line] for line in old)
        self._left = _WORK_LIMIT

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        """Return the longest block of equal lines; raises _TooMuchWork at the limit."""
        self._left -= self._pairs
        if self._left < 0:
            raise _TooMuchWork
        return super().find_longest_match(alo, ahi, blo, bhi)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of the tree, before and after a series."""

    path: str
    old: str
    new: str

    @cached_property
    def old_items(self) -> tuple[Definition, ...]:
        """The definitions of the file before the series."""
        return read_definitions(self.old)

    @cached_property
    def new_items(self) -> tuple[Definition, ...]:
        """The definitions of the file after the series."""
        return read_definitions(self.new)

    @cached_property
    def old_lines(self) -> list[str]:
        """The lines before the series, with their line ends."""
        return _LINES.findall(self.old)

    @cached_property
    def new_lines(self) -> list[str]:
        """The lines after the series, with their line ends."""
        return _LINES.findall(self.new)

    @cached_property
    def edits(self) -> tuple[Edit, ...]:
        """The changes of the series; all is one change if the lines repeat so often that comparing takes too long."""
        old, new = self.old_lines, self.new_lines
        start = _equal_lines(old, new)
        end = _equal_lines(reversed(old[start:]), reversed(new[start:]))
        old, new = old[start : len(old) - end], new[start : len(new) - end]
        if not old and not new:
            return ()
        try:
            blocks = _Matcher(old, new).get_opcodes()
        except _TooMuchWork:
            blocks = [("replace", 0, len(old), 0, len(new))]
        return tuple(
            Edit(start + old_start + 1, start + old_end + 1, start + new_start + 1, start + new_end + 1)
            for how, old_start, old_end, new_start, new_end in blocks
            if how != "equal"
        )

    def place(self, edit: Edit) -> tuple[Definition | None, Definition | None]:
        """Return the items that an edit is in: the one before the series and the one after.

        A side is None if the edit has lines of several items there, or is between two items. Blank lines at the ends of
        the edit do not count.
        """
        return (
            _inside(self.old_items, self.old_lines, edit.old_start, edit.old_end),
            _inside(self.new_items, self.new_lines, edit.new_start, edit.new_end),
        )

    def changed_text(self, edit: Edit) -> str:
        """Return the lines that an edit removes and those that it adds."""
        return "".join(
            [
                *self.old_lines[edit.old_start - 1 : edit.old_end - 1],
                *self.new_lines[edit.new_start - 1 : edit.new_end - 1],
            ]
        )

    def body(self, item: Definition, *, old: bool = False) -> str:
        """Return the text of an item after the series, or before it if `old` is set."""
        return "".join((self.old_lines if old else self.new_lines)[item.start - 1 : item.end])

    def function(self, name: str) -> Definition | None:
        """Return the function `name` of the new file, the first if the configuration chooses one of several."""
        return next((one for one in self.new_items if one.kind is DefinitionKind.FUNCTION and one.name == name), None)

    def without(self, edits: Iterable[Edit]) -> Source:
        """Return the file with `edits` reverted."""
        lines, position = list[str](), 0
        for edit in sorted(edits, key=lambda one: one.new_start):
            lines += self.new_lines[position : edit.new_start - 1]
            lines += self.old_lines[edit.old_start - 1 : edit.old_end - 1]
            position = edit.new_end - 1
        return replace(self, new="".join([*lines, *self.new_lines[position:]]))

    def with_body(self, item: Definition, text: str) -> Source:
        """Return the file with `text` in place of an item of the new file."""
        return replace(self, new="".join([*self.new_lines[: item.start - 1], text, *self.new_lines[item.end :]]))

    def including(self, header: str) -> Source:
        """Return the file with one more #include line after the existing ones."""
        wanted = f'#include "{header}"\n'
        if wanted in self.new_lines:
            return self
        first = next(
            (item.start for item in self.new_items if item.kind is not DefinitionKind.MACRO), len(self.new_lines) + 1
        )
        top = [number for number, line in enumerate(self.new_lines[: first - 1], 1) if _INCLUDE.match(line)]
        # The new line must not be inside an #if: only some configurations would include the header.
        at = _after_conditions(self.new_lines, max(top, default=0))
        return replace(self, new="".join([*self.new_lines[:at], wanted, *self.new_lines[at:]]))


class Rewritten(NamedTuple):
    """The files after a rule was applied, and its steps."""

    sources: Mapping[str, Source]
    steps: tuple[RewriteStep, ...]


class Unsafe(NamedTuple):
    """Reason for not applying a rule that fits."""

    reason: str


Rule = Callable[[Problem, Mapping[str, Source]], Rewritten | Unsafe | None]
"""Function of the problem that stopped a series and of its files; it returns None if the rule does not fit."""


def put(sources: Mapping[str, Source], *changed: Source) -> dict[str, Source]:
    """Return the files with those of `changed` replaced."""
    return {**sources, **{one.path: one for one in changed}}


def write_patch(sources: Mapping[str, Source], steps: Sequence[RewriteStep]) -> str:
    """Return the proposal: a patch from the old files to the new ones, after a list of the steps."""
    lines = ["This is a proposal of elivepatch check --rewrite. Read it before it is built.", ""]
    for number, step in enumerate(steps, 1):
        text = f"{number}. {step.path}: {step.what} [{step.code}]. {step.why}."
        lines += textwrap.wrap(text, 100, subsequent_indent="   ", break_long_words=False, break_on_hyphens=False)
    parts = ["".join(f"# {line}".rstrip() + "\n" for line in lines)]
    for path in sorted(sources):
        source = sources[path]
        diff = difflib.unified_diff(source.old_lines, source.new_lines, f"a/{path}", f"b/{path}")
        headed = with_headings(diff, source.old_lines)
        parts += (line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in headed)
    return "".join(parts)


def _equal_lines(ours: Iterable[str], theirs: Iterable[str]) -> int:
    """Return how many lines are equal before the first that differs."""
    return sum(1 for _ in itertools.takewhile(_same, zip(ours, theirs, strict=False)))


def _same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _inside(items: tuple[Definition, ...], lines: Sequence[str], start: int, end: int) -> Definition | None:
    while end > start and not lines[end - 2].strip():
        end -= 1
    while end > start and not lines[start - 1].strip():
        start += 1
    first = enclosing(items, start)
    if first is None:
        return None
    if start == end:
        # Lines added before an item are not part of it.
        return first if first.start < start else None
    return first if end - 1 <= first.end else None


def _after_conditions(lines: Sequence[str], at: int) -> int:
    """Return the first line from `at` on after which no #if is open."""
    depth = 0
    for number, line in enumerate(lines, 1):
        word = line.strip().removeprefix("#").strip()
        if line.lstrip().startswith("#"):
            depth += word.startswith("if")
            depth -= word.startswith("endif")
        if number >= at and depth <= 0:
            return number
    return at
