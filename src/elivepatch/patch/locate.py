# SPDX-License-Identifier: GPL-2.0-or-later
"""Changed lines of a series, and the lines that a message is about."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from elivepatch.patch.c_source import Definition, DefinitionKind, enclosing, words_of
from elivepatch.patch.places import PlacedFile, body, path_of

SHOWN = 8
_WORD = re.compile(r"\b[A-Za-z_]\w+")

DefinitionsOf = Callable[[str], tuple[Definition, ...]]
"""Function that returns the definitions of the unpatched file at a path of the tree; none if it does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedLine:
    """A line that a series adds (`+`) or removes (`-`), at the place that its hunk is applied to.

    `number` counts in the file after its patch if the line is added, else in the kernel's source, or in the file before
    its patch if an earlier patch added it; `inside` is the unpatched item that the line is part of.
    """

    path: str
    number: int
    sign: str
    text: str
    inside: Definition | None

    def __str__(self) -> str:
        """Return the line as reports show it."""
        return f"{self.path}:{self.number}: {self.sign}{self.text}"


def changed_lines(files: Iterable[PlacedFile], definitions: DefinitionsOf) -> Iterator[ChangedLine]:
    """Yield the changed lines of files from `follow`, in their order.

    A hunk that does not apply counts as if it were at its own line number.
    """
    for file in files:
        known = definitions(path_of(file.diff.source_file) or file.path)
        # Of each line the number of the last one up to it that is not new.
        nearest = list(itertools.accumulate(file.origins, lambda last, origin: origin or last, initial=0))
        added = 0
        for hunk, placed in itertools.zip_longest(file.diff, file.hunks):
            old = placed.at if placed else hunk.source_start
            for sign, text in body(hunk):
                shown = text.rstrip("\n").encode("latin-1").decode(errors="replace")
                if sign == "-":
                    number = _origin(file, old) or old
                    inside = enclosing(known, number)
                    yield ChangedLine(path=file.path, number=number, sign=sign, text=shown, inside=inside)
                elif sign == "+":
                    # New lines are inside what the line before them is inside of, unless that ends it.
                    before = nearest[max(old - 1, 0)] if old <= len(nearest) else old - 1  # does not apply
                    inside = enclosing(known, before)
                    inside = inside if inside and before < inside.end else None
                    yield ChangedLine(path=file.path, number=old + added, sign=sign, text=shown, inside=inside)
                old += sign != "+"
                added += (sign == "+") - (sign == "-")


def _origin(file: PlacedFile, number: int) -> int:
    return file.origins[number - 1] if 0 < number <= len(file.origins) else 0


def lines_about(lines: Sequence[ChangedLine], message: str, definitions: DefinitionsOf) -> list[str]:
    """Return the changed lines that a message is about: those that contain, or are part of, an item that it names."""
    top = {one.name for path in dict.fromkeys(line.path for line in lines) for one in definitions(path)}
    words = {word for line in lines for word in words_of(line.text)} | {
        line.inside.name for line in lines if line.inside is not None
    }
    # Names only: not the English words of the sentence that are also variables.
    names = {word for word in _WORD.findall(message) if (word in words or word in top) and (word in top or "_" in word)}
    found = [line for line in lines if _about(line, names) and line.text.strip()]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return [*(str(line) for line in found[:SHOWN]), *more]


def _about(line: ChangedLine, names: set[str]) -> bool:
    inside = line.inside is not None and line.inside.kind is not DefinitionKind.OTHER and line.inside.name in names
    return inside or bool(words_of(line.text) & names)
