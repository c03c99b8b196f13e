# SPDX-License-Identifier: GPL-2.0-or-later
"""Static variables inside functions: BTF does not have them, so their types are read in the sources.

create-diff-object sees their sizes. A variable of the same size that points at something else would be taken for the
old one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from elivepatch.build.sandbox.output import source_text
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.patch.c_source import DefinitionKind, blanked, read_definitions
from elivepatch.patch.parse import FileKind, TouchedFile

_STATIC = re.compile(r"(?m)^[ \t]+static[ \t]+([A-Za-z_][\w \t*]*?[ \t*])(\w+)[ \t]*((?:\[[^]\n]*\])*)[ \t]*(?:=|;)")
_NO_TYPE = re.compile(r"\b(?:const|volatile|__\w+)\b")
_MEANING = re.compile(r"\b(?:struct|union)\s+\w+|\*|\[[^]]*\]")


class Retyped(NamedTuple):
    """A static variable of a function whose declaration has another type."""

    function: str
    name: str
    old: str
    new: str

    @property
    def grave(self) -> bool:
        """True if the structure, the pointers or the dimensions differ, and not only a number's type."""
        return _MEANING.findall(self.old) != _MEANING.findall(self.new)


def check_statics(
    touched: Sequence[TouchedFile], *, tree: Path, layer: Path, built: Collection[str]
) -> tuple[Note, ...]:
    """Return a note for each static variable inside a function of the `built` sources that has another type.

    Raises BuildStopped with `data-layout` if the old content cannot be used. `layer` holds the changed sources.
    """
    notes = []
    for file in touched:
        if file.kind is not FileKind.SOURCE or file.path not in built:
            continue
        texts = source_text(tree, file.path), source_text(layer, file.path)
        if texts[0] is None or texts[1] is None:
            continue
        for one in retyped(texts[0], texts[1]):
            where = f"The static variable {one.name} of {one.function} in {file.path}"
            message = f"{where} has the type `{one.new}` instead of `{one.old}`"
            if one.grave:
                raise BuildStopped(problem("data-layout", f"{message}, and keeps its content."))
            advice = "it keeps its content: look at what old code has stored there"
            notes.append(Note(code="type-meaning", message=f"{message}, and {advice}."))
    return tuple(notes)


def retyped(old: str, new: str) -> Iterator[Retyped]:
    """Yield the static variables that a function has in both texts of a source, with different types."""
    before, after = blanked(old), blanked(new)
    # Reading the functions of a large source takes longer, and most series change no such declaration.
    if _declared(before) == _declared(after):
        return
    ours, theirs = _by_function(old, before), _by_function(new, after)
    for function, name in ours.keys() & theirs.keys():
        mine, other = ours[function, name], theirs[function, name]
        # Several variables of one name are in several blocks, and their order means nothing.
        if len(mine) == len(other) == 1 and mine != other:
            yield Retyped(function, name, *mine, *other)


def _declared(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for words, name, dimensions in _STATIC.findall(text):
        kind = " ".join(_NO_TYPE.sub(" ", words).replace("*", " * ").split())
        found.setdefault(name, []).append(f"{kind} {dimensions}".rstrip())
    return found


def _by_function(text: str, hidden: str) -> dict[tuple[str, str], list[str]]:
    lines = hidden.split("\n")
    return {
        (one.name, name): types
        for one in read_definitions(text)
        if one.kind is DefinitionKind.FUNCTION
        for name, types in _declared("\n".join(lines[one.start - 1 : one.end])).items()
    }
