# SPDX-License-Identifier: GPL-2.0-or-later
"""Changed lines of a series, and the lines that a message is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from elivepatch.model.series import PatchSeries
from elivepatch.patch.c_source import Definition, DefinitionKind, enclosing, words_of
from elivepatch.patch.parse import read_diff

SHOWN = 8
_WORD = re.compile(r"\b[A-Za-z_]\w+")

DefinitionsOf = Callable[[str], tuple[Definition, ...]]
"""Function that returns the definitions of the unpatched file at a path of the tree; none if it does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedLine:
    """A line that a series adds (`+`) or removes (`-`).

    `number` counts in the new file if the line is added, in the old file if it is removed; `inside` is the unpatched
    item that the line is part of.
    """

    path: str
    number: int
    sign: str
    text: str
    inside: Definition | None

    def __str__(self) -> str:
        """Return the line as reports show it."""
        return f"{self.path}:{self.number}: {self.sign}{self.text}"


def changed_lines(series: PatchSeries, definitions: DefinitionsOf) -> Iterator[ChangedLine]:
    """Yield the changed lines of a series that `read_series` has accepted, in their order."""
    for patch in series.patches:
        for file in read_diff(patch.content.decode()):
            path = (file.source_file if file.target_file == "/dev/null" else file.target_file).partition("/")[2]
            known = definitions(path)
            for hunk in file:
                old = hunk.source_start
                for line in hunk:
                    if line.is_context:
                        old += 1
                        continue
                    yield ChangedLine(
                        path=path,
                        number=(line.target_line_no if line.is_added else line.source_line_no) or 0,
                        sign="+" if line.is_added else "-",
                        text=line.value.rstrip("\n"),
                        inside=enclosing(known, old),
                    )
                    old += line.is_removed


def lines_about(series: PatchSeries, message: str, definitions: DefinitionsOf) -> list[str]:
    """Return the changed lines that a message is about: those that contain, or are part of, an item that it names."""
    lines = list(changed_lines(series, definitions))
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
