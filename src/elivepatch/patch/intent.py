# SPDX-License-Identifier: GPL-2.0-or-later
"""Check that each hunk of a series changes the code that its author meant.

patch(1) takes the nearest place that has a hunk's old lines. If several functions have the same lines, that can be
another function than the one that the author changed. Evidence of the right place is, from the strongest: the hash of
the old file in git's `index` line, the heading of the hunk, the beginning of a function among its old lines, and its
line number. A hunk is refused if they contradict each other, or if all of them together leave more than one place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from elivepatch.model.codes import problem
from elivepatch.model.errors import Problem
from elivepatch.patch.c_source import Definition, DefinitionKind, enclosing, read_definitions
from elivepatch.patch.headings import Headings, agree, is_cut, is_label, named
from elivepatch.patch.places import PlacedFile, PlacedHunk, body

_INDEX = re.compile(r"index ([0-9a-f]{7,40})\.\.")
_MACRO = re.compile(r"#\s*define\s+\w")
_SHOWN = 4


def misplaced(files: Iterable[PlacedFile]) -> Problem | None:
    """Return the problem of the first hunk that may have another place than its author meant, None if there is none.

    The code is `hunk-place`, and the message names both places.
    """
    for file in files:
        judge = _Judge(file)
        for placed in file.hunks:
            if file.lines and (reason := judge.doubt(placed)):
                sentence = f"{file.patch}: the hunk for line {placed.hunk.source_start} of {file.path} {reason}."
                return problem("hunk-place", sentence, excerpt=_header(placed))
    return None


def _header(placed: PlacedHunk) -> str:
    return str(placed.hunk).partition("\n")[0]


class _Judge:
    def __init__(self, file: PlacedFile) -> None:
        self._file = file
        self._headings = Headings(file.lines)

    def doubt(self, placed: PlacedHunk) -> str:
        """Return the end of a sentence that says why the place of a hunk is in doubt, empty if it is not."""
        if placed.at == placed.hunk.source_start and self._made_here:
            return ""
        if not placed.fits:
            return "has no old lines, so that it fits everywhere"
        heading = placed.hunk.section_header.encode().decode("latin-1").strip()
        if named(heading) is None and not is_cut(heading):
            return self._unnamed(placed)
        return self._named(placed, heading)

    def _named(self, placed: PlacedHunk, heading: str) -> str:
        """Judge a hunk whose heading names an item."""
        agreeing = [at for at in placed.fits if self._agrees(at, heading)]
        if placed.at in agreeing:
            if len(agreeing) == 1 or self._exact(placed):
                return ""
            return f"fits in {len(agreeing)} places: {self._places(agreeing)}"
        if len(placed.fits) == 1 and (self._identified(placed) or not self._inside(placed)):
            return self._across(placed)
        name = named(heading)
        where = f"would land at {self._place(placed.at)}, but its heading names {name or heading}"
        if agreeing:
            return f"{where}, and it also fits at {self._places(agreeing)}"
        begin = self._headings.begins(name) if name else None
        return f"{where}, which begins at {self._file.path}:{begin}" if begin else f"{where}, which is not there"

    def _unnamed(self, placed: PlacedHunk) -> str:
        """Judge a hunk without a heading, or with one that names nothing."""
        if len(placed.fits) > 1:
            return f"names no function and fits in {len(placed.fits)} places: {self._places(placed.fits)}"
        return self._across(placed)

    def _across(self, placed: PlacedHunk) -> str:
        """Judge a hunk that has one place, which no heading confirms: an offset must not lead to another function."""
        at, expected = placed.at, placed.expected
        if self._exact(placed) or self._identified(placed) or self._headings.item(at) == self._headings.item(expected):
            return ""
        return (
            f"would land at {self._place(at)}, but its line number is that of {self._place(expected)}, and nothing in "
            f"it names a function"
        )

    def _exact(self, placed: PlacedHunk) -> bool:
        """Return if a hunk is at its line number, either of the file before the patch or of the kernel's source."""
        return placed.at == placed.expected or self._file.origins[placed.at - 1] == placed.hunk.source_start

    def _agrees(self, at: int, heading: str) -> bool:
        if any(agree(heading, line) for line in self._headings.possible(at)):
            return True
        inside = enclosing(self._definitions, at)
        return inside is not None and inside.kind is DefinitionKind.FUNCTION and inside.name == named(heading)

    def _identified(self, placed: PlacedHunk) -> bool:
        """Return if old lines of a hunk begin the item that its first change is in.

        If the change is between items, an item that begins behind it identifies the place too.
        """
        lines = body(placed.hunk)
        first = next((number for number, (sign, _) in enumerate(lines) if sign != " "), 0)
        looked_at = lines[: first + 1] if self._inside(placed) else lines
        return any(sign != "+" and _begins(text) for sign, text in looked_at)

    def _inside(self, placed: PlacedHunk) -> bool:
        """Return if the first change of a hunk is inside a function, table or structure."""
        signs = [sign for sign, _ in body(placed.hunk)]
        first = next((number for number, sign in enumerate(signs) if sign != " "), 0)
        # New lines are inside what the line before them is inside of, unless that ends it.
        number = placed.at + first - (signs[first] == "+")
        found = enclosing(self._definitions, number)
        if found is None or found.kind not in {DefinitionKind.FUNCTION, DefinitionKind.DATA, DefinitionKind.TYPE}:
            return False
        return signs[first] == "-" or number < found.end

    def _place(self, at: int) -> str:
        item = self._headings.text(at)
        name = named(item)
        return f"{self._file.path}:{at} in {name}" if name else f"{self._file.path}:{at}"

    def _places(self, fits: Sequence[int]) -> str:
        shown = ", ".join(self._place(at) for at in fits[:_SHOWN])
        return f"{shown} and {len(fits) - _SHOWN} more" if len(fits) > _SHOWN else shown

    @cached_property
    def _definitions(self) -> tuple[Definition, ...]:
        return read_definitions("".join(self._file.lines))

    @cached_property
    def _made_here(self) -> bool:
        """True if git made the diff of exactly this file."""
        found = next((one for line in self._file.diff.patch_info or () if (one := _INDEX.match(str(line)))), None)
        content = "".join(self._file.lines).encode("latin-1")
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        return found is not None and blob.startswith(found[1])


def _begins(line: str) -> bool:
    return bool(_MACRO.match(line)) or (named(line) is not None and not is_label(line))
