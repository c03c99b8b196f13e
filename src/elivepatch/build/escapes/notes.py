# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes about what outlives a livepatch, with the lines of the patch that hand it out."""

from __future__ import annotations

from collections.abc import Sequence

from elivepatch.build.escapes.flow import Escape
from elivepatch.model.build import Note
from elivepatch.patch.c_source import words_of
from elivepatch.patch.locate import ChangedLine

OUTLIVES = "outlives"
"""Code of the note; its module is made permanent."""
_SHOWN = 4


def note_of(escapes: Sequence[Escape], changed: Sequence[ChangedLine]) -> Note | None:
    """Return the note about `escapes`, None if there are none; `changed` are the lines of the series."""
    said = list(dict.fromkeys(_sentence(one, changed) for one in escapes))
    if not said:
        return None
    more = f"; and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    keeping = "The livepatch therefore stays in memory after it is taken out, until a reboot"
    return Note(code="outlives", message=f"{'; '.join(said[:_SHOWN])}{more}. {keeping}.")


def _sentence(one: Escape, changed: Sequence[ChangedLine]) -> str:
    line = _line(one, changed)
    return f"{one.function.split('.')[0]} {one.how}{f' ({line})' if line else ''}"


def _line(one: Escape, changed: Sequence[ChangedLine]) -> str:
    """Return the place of the added line that uses the thing, or else the one that the debug information names."""
    name = one.what.name.split(".")[0]
    added = [line for line in changed if line.sign == "+" and line.path.endswith(".c")]
    if one.what.what == "literal":
        using = [line for line in added if one.what.name.rstrip('".') in line.text]
    else:
        using = [line for line in added if name in words_of(line.text)]
    # The last use: a definition comes before it.
    inside = [line for line in using if line.inside is not None and line.inside.name == one.function.split(".")[0]]
    best = (inside or using)[-1:]
    return f"{best[0].path}:{best[0].number}" if best else one.line
