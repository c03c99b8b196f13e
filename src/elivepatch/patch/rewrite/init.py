# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewrite that leaves out changes of code that has run already, if the rest of the series does not need them.

The test is strict. If the dropped lines name a variable, a member or a new function of the series, nothing else that
the series changes may name it. So the rule refuses if init code sets up a variable that new code uses: without the
one, the other meets a null pointer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from elivepatch.model.build import RewriteStep
from elivepatch.model.errors import Problem
from elivepatch.patch.c_source import ENDING, STARTING, Definition, DefinitionKind, words_of
from elivepatch.patch.rewrite.edits import Edit, Rewritten, Source, Unsafe, put

_MEMBER = re.compile(r"(?:->|\.)\s*([A-Za-z_]\w*)")


def dropped_init(found: Problem, sources: Mapping[str, Source]) -> Rewritten | Unsafe | None:
    """Revert the changes of __init and __exit items."""
    if found.code not in {"init-code", "init-only"}:
        return None
    changed, steps, kept_any = dict(sources), list[RewriteStep](), False
    for path, source in sources.items():
        dropped = [edit for edit in source.edits if _marks(source, edit)]
        kept = [edit for edit in source.edits if edit not in dropped]
        kept_any = kept_any or any(source.changed_text(edit).strip() for edit in kept)
        if not dropped:
            continue
        if shared := sorted(_names(source, dropped) & _needed(sources)):
            return Unsafe(
                f"Code that goes on running needs the start-up or exit code of {path} that the series changes: "
                f"{', '.join(shared[:4])}."
            )
        changed = put(changed, source.without(dropped))
        for edit in dropped:
            places = [one for one in source.place(edit) if one is not None]
            marks = _marks(source, edit)
            what = f"leaves out the change of {places[-1].name} (line {edit.old_start})"
            when = "at the end" if marks & ENDING else "at start-up"
            why = f"It runs only {when}, and nothing else in the series uses what it sets up"
            steps.append(RewriteStep(code=found.code, path=path, what=what, why=why))
    if steps and not kept_any:
        return Unsafe("The series changes only start-up or exit code, which has no effect on a running kernel.")
    return Rewritten(changed, tuple(steps)) if steps else None


def _marks(source: Source, edit: Edit) -> frozenset[str]:
    """Return the marks of the item that an edit is in; none if the items before and after are not the same one."""
    old, new = source.place(edit)
    split = (old is None and edit.old_end > edit.old_start) or (new is None and edit.new_end > edit.new_start)
    places = [one for one in (old, new) if one is not None]
    if split or not places or len({one.name for one in places}) > 1:
        return frozenset()
    return places[0].words & (STARTING | ENDING)


def _names(source: Source, dropped: list[Edit]) -> set[str]:
    """Return the names in the dropped lines that other code could need.

    These are data and new functions of the file, members, and the data of those functions of the file that they call.
    """
    text = "".join(source.changed_text(edit) for edit in dropped)
    items = {item.name: item for item in (*source.old_items, *source.new_items)}
    data = {name for name, item in items.items() if item.kind in {DefinitionKind.DATA, DefinitionKind.USE}}
    before = {item.name for item in source.old_items}
    functions = {item.name: item for item in source.new_items if item.kind is DefinitionKind.FUNCTION}
    named = words_of(text)
    called = {name for name in named & functions.keys() if not functions[name].words & (STARTING | ENDING)}
    set_up = set[str]().union(*(words_of(source.body(functions[name])) & data for name in called))
    members = set(_MEMBER.findall(text)) - _plain_words(items)
    return set(named & data) | set(named & functions.keys() - before) | set_up | members


def _plain_words(items: Mapping[str, Definition]) -> set[str]:
    return {name for name, item in items.items() if item.kind is DefinitionKind.FUNCTION}


def _needed(sources: Mapping[str, Source]) -> set[str]:
    """Return every name in the changed items that go on running, and in the lines that the series adds there."""
    needed = set[str]()
    for source in sources.values():
        for edit in source.edits:
            if _marks(source, edit):
                continue
            old, new = source.place(edit)
            needed |= words_of(source.changed_text(edit))
            if new is not None:
                needed |= words_of(source.body(new))
            elif old is not None:
                needed |= words_of(source.body(old, old=True))
    return needed
