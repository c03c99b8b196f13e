# SPDX-License-Identifier: GPL-2.0-or-later
"""Names whose meaning a changed header changes, and the sources that use them.

A change inside an inline function or a macro affects only code that names it. So if a header changes only inside such
items, it may affect few of the thousands of sources that include it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from elivepatch.patch.c_source import DefinitionKind, blanked, enclosing, read_definitions
from elivepatch.patch.rewrite.edits import Source

Search = Callable[[Collection[str]], Mapping[str, str] | None]
"""Function that returns path and text of every source and header with one of the given names as a word.

It returns None if a macro may compose one of the names out of pieces.
"""

_BY_NAME = {DefinitionKind.FUNCTION, DefinitionKind.MACRO}
_STEPS = 6  # uses of uses; a name that is used at a greater depth is used everywhere
_NAMES_LIMIT = 200


def changed_names(source: Source) -> frozenset[str] | None:
    """Return the names of the functions and macros that hold every change of a header.

    Return None if anything else changes, before or after: a type, a declaration, a condition of the preprocessor.
    """
    names: set[str] = set()
    old_lines, new_lines = (blanked(text).split("\n") for text in (source.old, source.new))
    for edit in source.edits:
        for lines, items, start, end in (
            (old_lines, source.old_items, edit.old_start, edit.old_end),
            (new_lines, source.new_items, edit.new_start, edit.new_end),
        ):
            for number in range(start, end):
                item = enclosing(items, number)
                if item is not None and item.kind in _BY_NAME and item.name:
                    names.add(item.name)
                elif lines[number - 1].strip():
                    return None
    return frozenset(names)


def users_of(names: Collection[str], search: Search) -> frozenset[str] | None:
    """Return the sources that name any of `names`, or any function or macro of a header that does, at any depth.

    Return None if a header uses one elsewhere, in a type or in a condition of the preprocessor, or if `search` does.
    """
    wanted, pending, users = set(names), set(names), set[str]()
    for _ in range(_STEPS):
        if not pending:
            return frozenset(users)
        if len(wanted) > _NAMES_LIMIT:
            return None
        found = search(pending)
        if found is None:
            return None
        fresh: set[str] = set()
        for path, text in found.items():
            if not path.endswith(".h"):
                # A name in a comment or a literal is no use. Assembly is not parsed: the word alone counts.
                if path.endswith(".S") or _named(blanked(text), pending):
                    users.add(path)
                continue
            through = _through(text, pending)
            if through is None:
                return None
            fresh |= through
        pending = fresh - wanted
        wanted |= pending
    return None


def pieces(names: Iterable[str], glued: Iterable[str]) -> frozenset[str]:
    """Return the words that give one of `names` when a macro joins them to one of the pieces `glued` (`piece##x`)."""
    return frozenset(
        rest
        for name in names
        for piece in glued
        for rest in (name.removeprefix(piece), name.removesuffix(piece))
        if rest and rest != name
    )


def _named(text: str, names: Collection[str]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", text) for name in names)


def _through(text: str, names: Collection[str]) -> set[str] | None:
    """Return the functions and macros of a header that use `names`, None if anything else in it uses them."""
    items = read_definitions(text)
    found: set[str] = set()
    for number, line in enumerate(blanked(text).split("\n"), 1):
        if not _named(line, names):
            continue
        item = enclosing(items, number)
        if item is not None and item.kind in _BY_NAME and item.name:
            found.add(item.name)
        elif item is None or not _declares(item.kind, item.head):
            return None
    return found


def _declares(kind: DefinitionKind, head: str) -> bool:
    """Return True if an item declares a function: a declaration does not depend on the body."""
    return kind is DefinitionKind.OTHER and head.endswith(")") and "{" not in head and "=" not in head
