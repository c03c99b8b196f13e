# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewrites of data and exports: attributes of variables, new and lost exports, unused static variables."""

from __future__ import annotations

import re
from collections.abc import Mapping

from elivepatch.model.build import RewriteStep
from elivepatch.model.errors import Problem
from elivepatch.patch.c_source import Definition, DefinitionKind
from elivepatch.patch.rewrite.edits import Rewritten, Source, Unsafe, put

# These attributes choose the place of a variable, never its content (include/linux/cache.h).
_PLACING = re.compile(r"(?<!\s)\s*+\b(?:__read_mostly|__ro_after_init|____cacheline_aligned(?:_in_smp)?)\b")
_DECLARATION = 400  # the most characters before the name of a variable that are looked at
_EXPORT = re.compile(r"EXPORT_(?:TRACEPOINT_)?SYMBOL\w*$")
_LOST = re.compile(r"(\w+) in (\S+) no longer uses its static variable (\w+)\.")


def plain_variables(found: Problem, sources: Mapping[str, Source]) -> Rewritten | Unsafe | None:
    """Remove attributes of place from new variables, and revert changes of such attributes."""
    if found.code not in {"new-data", "section-change"}:
        return None
    changed, steps = dict(sources), list[RewriteStep]()
    for path, source in sources.items():
        before = {item.name: item for item in source.old_items if item.kind is DefinitionKind.DATA}
        for item in reversed([one for one in source.new_items if one.kind is DefinitionKind.DATA]):
            old, text = before.get(item.name), source.body(item)
            if old is None:
                plain, what = _PLACING.sub("", text), f"the new variable {item.name} loses its attribute"
                why = "It only chooses the variable's section, and a livepatch cannot add to that section"
            else:
                same = _PLACING.sub("", text) == _PLACING.sub("", source.body(old, old=True))
                plain, what = (source.body(old, old=True), f"{item.name} keeps its attributes") if same else (text, "")
                why = "They choose the place of the variable, which exists already and cannot be moved"
            if plain != text:
                changed[path] = changed[path].with_body(item, plain)
                steps.append(RewriteStep(code=found.code, path=path, what=what, why=why))
    return Rewritten(changed, tuple(steps)) if steps else None


def exports_as_they_are(found: Problem, sources: Mapping[str, Source]) -> Rewritten | Unsafe | None:
    """Remove new exports, and put lost ones back if the symbol still exists."""
    if found.code not in {"new-export", "export"}:
        return None
    changed, steps = dict(sources), list[RewriteStep]()
    for path, source in sources.items():
        before, after = (_exports(items) for items in (source.old_items, source.new_items))
        for item in reversed(source.new_items):
            if item.kind is DefinitionKind.USE and item.head in after - before.keys():
                changed[path] = changed[path].with_body(item, "")
                why = "No loaded module can use an export that it was not built with"
                steps.append(RewriteStep(code=found.code, path=path, what=f"leaves {item.head} out", why=why))
        for head in sorted(before.keys() - after.keys()):
            name = before[head].name
            home = next((one for one in changed[path].new_items if one.name == name and _exportable(one)), None)
            if home is None:
                return Unsafe(f"{path} removes {name}, which loaded modules may call.")
            changed[path] = changed[path].with_body(home, f"{changed[path].body(home)}{head};\n")
            why = "Loaded modules already use the symbol, and a livepatch cannot change that"
            steps.append(RewriteStep(code=found.code, path=path, what=f"keeps {head}", why=why))
    return Rewritten(changed, tuple(steps)) if steps else None


def _exports(items: tuple[Definition, ...]) -> dict[str, Definition]:
    return {
        one.head: one for one in items if one.kind is DefinitionKind.USE and _EXPORT.match(one.head.partition("(")[0])
    }


def _exportable(item: Definition) -> bool:
    return item.kind in {DefinitionKind.FUNCTION, DefinitionKind.DATA}


def kept_static_local(found: Problem, sources: Mapping[str, Source]) -> Rewritten | Unsafe | None:
    """Add a use of a static local variable that a function no longer uses; the use has no other effect."""
    match = _LOST.match(found.message)
    if found.code != "static-local" or match is None:
        return None
    function, path, variable = match.groups()
    source = sources.get(path)
    if source is None:
        return None
    if f"{function}.cold " in found.excerpt:
        return Unsafe(
            f"{variable} was used in the part of {function} that the compiler placed elsewhere ({function}.cold)."
        )
    declared = re.compile(
        rf"^[ \t]*static\b[^;{{}}=]{{,{_DECLARATION}}}\b{variable}\b(?:\s*\[[^;\]]*\])*\s*(?:=[^;]*)?;", re.MULTILINE
    )
    # The variable of an inlined function becomes that of the function around it.
    homes = [
        (one, found_there[0])
        for one in source.old_items
        if one.kind is DefinitionKind.FUNCTION and (found_there := declared.search(source.body(one, old=True)))
    ]
    chosen = next((one for one in homes if one[0].name == function), homes[0] if len(homes) == 1 else None)
    if chosen is None:
        return None
    home, declaration = chosen
    new = source.function(home.name)
    if new is None:
        return Unsafe(f"{home.name}, which {variable} belongs to, is gone.")
    text = source.body(new)
    again = re.search(rf"^[ \t]*static\b[^;]{{,{_DECLARATION}}}\b{variable}\b[^;]*;\n", text, re.MULTILINE)
    declaration = "" if again else f"\t{' '.join(declaration.split())}\n"
    # The read is the use. The empty assembly may write the variable, so the compiler cannot make it a constant.
    use = f'asm volatile("" : "+m" ({variable})); *(const volatile char *)&{variable};'
    kept = f"\tchar {variable}_kept __maybe_unused = ({{ {use} }});\n"
    # After the declaration if the function still has one, else before all other statements.
    at = again.end() if again else text.index("{") + 1 + text[text.index("{") + 1 :].index("\n") + 1
    what = f"{home.name}() keeps a read of its static variable {variable}, which does nothing"
    why = "The tool cannot distinguish a variable without a use from one that it failed to find"
    step = RewriteStep(code=found.code, path=path, what=what, why=why)
    body = f"{text[:at]}{declaration}{kept}{text[at:]}"
    return Rewritten(put(sources, source.with_body(new, body)), (step,))
