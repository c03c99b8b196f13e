# SPDX-License-Identifier: GPL-2.0-or-later
"""Places of hunks: the lines of one kernel's source that each hunk of a series fits, and the one that patch(1) takes.

The search is that of patch(1) without fuzz: a hunk goes to the nearest place where its old lines are, counted from its
own line number and the offset of the hunk before. Files are followed through the series, so that each line of a
patched file is known by its number in the kernel's source.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from unidiff.patch import Hunk, PatchedFile

from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.model.series import PatchSeries
from elivepatch.patch.parse import NOWHERE, read_diff

ReadSource = Callable[[str], str | None]
"""Returns the text of a file of the kernel's source, in which each byte is a character; None if it is missing."""

_WORK_LIMIT = 1_000_000_000
"""Limit of lines that are compared or copied for one series: half a minute."""

_FIT_WORK = 1_000
"""Work of one fit in lines: each is kept, and compared with the heading of its hunk."""


class PlacedHunk(NamedTuple):
    """A hunk and its place. `at` is the first of its old lines, from 1, in the file before the patch.

    `expected` is the place that its line number and the hunks before it name. `fits` are all places that it could have,
    in order, if each hunk of the file comes behind the one before it. A hunk without old lines has no `fits`, and `at`
    is the line that its new lines come before.
    """

    hunk: Hunk
    at: int
    expected: int
    fits: tuple[int, ...]


@dataclass(frozen=True)
class PlacedFile:
    """One file of one patch, with the text before that patch.

    `lines` keep their line ends. `origins` are the numbers of these lines in the kernel's source, 0 for a line that an
    earlier patch added. `unplaced` is the first hunk that fits nowhere; those behind it are not in `hunks`.
    """

    patch: str
    diff: PatchedFile
    path: str
    lines: Sequence[str]
    origins: Sequence[int]
    hunks: Sequence[PlacedHunk] = field(default=())
    unplaced: Hunk | None = None

    @cached_property
    def result(self) -> tuple[list[str], list[int]]:
        """The lines after the patch, and their numbers in the kernel's source, 0 for each that is new."""
        texts, numbers = list[str](), list[int]()
        done = 0
        for placed in self.hunks:
            old = placed.at - 1
            for sign, text in body(placed.hunk):
                if sign != " " and done < old:
                    texts += self.lines[done:old]
                    numbers += self.origins[done:old]
                    done = old
                if sign == "+":
                    texts.append(text)
                    numbers.append(0)
                    continue
                old += 1
                if sign == "-":
                    done = old
        return [*texts, *self.lines[done:]], [*numbers, *self.origins[done:]]


def follow(series: PatchSeries, read: ReadSource) -> Iterator[PlacedFile]:
    """Yield the files of a series that `read_series` has accepted, in their order, with the place of each hunk.

    Raises BuildStopped with `patch-too-large` if that is too much work.
    """
    state: dict[str, tuple[Sequence[str], Sequence[int]]] = {}
    work = _Work()
    for patch in series.patches:
        for file in read_diff(patch.content.decode()):
            old, new = (path_of(name) for name in (file.source_file, file.target_file))
            if old and old not in state:
                text = split_lines(read(old) or "")
                state[old] = text, range(1, len(text) + 1)
            lines, origins = state.get(old, ((), ()))
            placed = _placed(patch.name, file, new or old, lines, origins, work)
            yield placed
            if old and old != new:
                state[old] = (), ()
            if new:
                state[new] = placed.result


def path_of(name: str) -> str:
    """Return the path in the tree of a name in a diff as `patch -p1` reads it, empty for /dev/null."""
    return "" if name == NOWHERE else name.partition("/")[2]


def split_lines(text: str) -> list[str]:
    r"""Return the lines of a text with their ends; only \n ends a line, and \r\n counts as \n."""
    lines = text.replace("\r\n", "\n").split("\n")
    return [*[f"{line}\n" for line in lines[:-1]], *([lines[-1]] if lines[-1] else [])]


def body(hunk: Hunk) -> list[tuple[str, str]]:
    """Return the lines of a hunk with their sign, as characters that are bytes; unlike diffs, without markers.

    A line without an end has none in the file.
    """
    found: list[tuple[str, str]] = []
    for line in hunk:
        if line.line_type == "\\" and found:
            sign, text = found[-1]
            found[-1] = sign, text.rstrip("\n")
        elif line.is_added or line.is_removed or line.is_context:
            found.append((line.line_type, line.value.encode().decode("latin-1")))
    return found


class _Work:
    def __init__(self) -> None:
        self._left = _WORK_LIMIT

    def add(self, lines: int) -> None:
        self._left -= lines
        if self._left < 0:
            raise BuildStopped(problem("patch-too-large", "The places of the series' hunks take too long to find."))


def _placed(
    patch: str, file: PatchedFile, path: str, lines: Sequence[str], origins: Sequence[int], work: _Work
) -> PlacedFile:
    work.add(len(lines))
    finder = _Finder(lines, work)
    hunks: list[PlacedHunk] = []
    for hunk in file:
        placed = finder.place(hunk)
        if placed is None:
            return PlacedFile(patch, file, path, lines, origins, hunks, hunk)
        hunks.append(placed)
    return PlacedFile(patch, file, path, lines, origins, _in_order(hunks))


def _in_order(hunks: Sequence[PlacedHunk]) -> list[PlacedHunk]:
    """Return the hunks with those of their fits that leave a place for each hunk before and behind."""
    kept = [list(placed.fits) for placed in hunks]
    spans = [_changed_until(body(placed.hunk)) for placed in hunks]
    known = [number for number, placed in enumerate(hunks) if placed.fits]
    for before, number in itertools.pairwise(known):
        first = kept[before][0] + spans[before]
        kept[number] = [at for at in kept[number] if at > first]
    for number, behind in itertools.pairwise(reversed(known)):
        last = kept[number][-1]
        kept[behind] = [at for at in kept[behind] if at + spans[behind] < last]
    return [placed._replace(fits=tuple(fits)) for placed, fits in zip(hunks, kept, strict=True)]


def _changed_until(lines: Sequence[tuple[str, str]]) -> int:
    """Return the last of a hunk's old lines that it changes or adds a line behind; counted from 0, -1 for none."""
    number = 0
    last = -1
    for sign, _ in lines:
        if sign == "+":
            last = number - 1
            continue
        if sign == "-":
            last = number
        number += 1
    return last


class _Finder:
    """Search of one patch(1) run in one file; the rules are those of its locate_hunk without fuzz."""

    def __init__(self, lines: Sequence[str], work: _Work) -> None:
        self._lines = lines
        self._work = work
        self._offset = 0
        self._frozen = 0  # Number of the last line that a hunk has changed or left behind.

    def place(self, hunk: Hunk) -> PlacedHunk | None:
        lines = body(hunk)
        old = [text for sign, text in lines if sign != "+"]
        # A hunk without old lines has the number of the line before it.
        expected = hunk.source_start + (not old) + self._offset
        if not old:
            at = min(max(expected, self._frozen + 1), len(self._lines) + 1)
            self._freeze(at, lines)
            return PlacedHunk(hunk, at, at, ())
        signs = [sign for sign, _ in lines]
        before = next((n for n, sign in enumerate(signs) if sign != " "), len(signs))
        behind = next((n for n, sign in enumerate(reversed(signs)) if sign != " "), len(signs))
        fits = self._fits(old)
        if before < behind and hunk.source_start <= 1:
            fits = [at for at in fits if at == 1]
        if behind < before:
            fits = [at for at in fits if at + len(old) - 1 == len(self._lines)]
        free = [at for at in fits if at > self._frozen]
        if not free:
            return None
        at = min(free, key=lambda one: (abs(one - expected), one < expected))
        self._offset += at - expected
        self._freeze(at, lines)
        return PlacedHunk(hunk, at, expected, tuple(fits))

    def _freeze(self, at: int, lines: Sequence[tuple[str, str]]) -> None:
        self._frozen = max(self._frozen, at + _changed_until(lines))

    def _fits(self, old: Sequence[str]) -> list[int]:
        # The longest line is seldom found by chance.
        telling = max(range(len(old)), key=lambda number: len(old[number].strip()))
        self._work.add(len(self._lines))
        found, at = list[int](), telling - 1
        try:
            while True:
                at = self._lines.index(old[telling], at + 1)
                self._work.add(len(old))
                start = at - telling
                if start >= 0 and list(self._lines[start : start + len(old)]) == list(old):
                    self._work.add(_FIT_WORK)
                    found.append(start + 1)
        except ValueError:
            return found
