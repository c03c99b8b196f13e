# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewrites of function entries and calls: functions without an entry, static keys and static calls of modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from elivepatch.model.build import RewriteStep
from elivepatch.model.errors import Problem
from elivepatch.patch.c_source import DefinitionKind
from elivepatch.patch.rewrite.edits import Rewritten, Source, Unsafe, put

MACROS, SYSCALLS = "kpatch-macros.h", "kpatch-syscall.h"
_ENTRYLESS = re.compile(r"(\w+)\S* in (\S+) (?:is an inline function|is marked|has no patchable entry)")
_KEYED = re.compile(r"(\w+)\S* tests the static key (\w+)\.")
_OWN_KEY = re.compile(r"The patched code tests (\w+), a static key that the series adds\.")
_CALLING = re.compile(r"(\w+)\S* makes a static call that a module defines\.")
_SYSCALL = re.compile(r"__(?:do|se)_sys_(\w+)$")
_SUFFIX = "_livepatch"


def renamed_function(found: Problem, sources: Mapping[str, Source]) -> Rewritten | Unsafe | None:
    """Give a static function without an entry a new name, so that its callers change and are replaced."""
    match = _ENTRYLESS.match(found.message)
    if found.code not in {"no-function-entry", "outlined-inline"} or match is None:
        return None
    name, path = match.groups()
    source = sources.get(path)
    if source is None or name.endswith(_SUFFIX):
        return None
    if syscall := _SYSCALL.match(name):
        return _kpatch_syscall(found, sources, source, syscall[1])
    own = [one for one in source.new_items if one.kind is DefinitionKind.FUNCTION and one.name == name]
    if len(own) != 1:
        return Unsafe(f"{name} is not defined in {path}: its callers would have to call a copy of it.")
    if "static" not in own[0].words:
        return Unsafe(f"{name} of {path} is called from other files, which the series does not change.")
    text = _renamed(source, name)
    what = f"{name}() becomes {name}{_SUFFIX}(), also in its callers"
    why = f"{name}() has no entry to redirect; its callers have, and now call the new function"
    step = RewriteStep(code=found.code, path=path, what=what, why=why)
    return Rewritten(put(sources, replace(source, new=text)), (step,))


def _renamed(source: Source, name: str) -> str:
    """Return the new text with another name for a function in all code; data keep the old name."""
    word = re.compile(rf"(?<![\w.]){name}\b(?!\s*=[^=])")
    lines = list(source.new_lines)
    for item in source.new_items:
        if item.kind in {DefinitionKind.FUNCTION, DefinitionKind.OTHER}:
            for number in range(item.start - 1, item.end):
                lines[number] = word.sub(f"{name}{_SUFFIX}", lines[number])
    return "".join(lines)


def _kpatch_syscall(found: Problem, sources: Mapping[str, Source], source: Source, name: str) -> Rewritten | None:
    definition = re.compile(rf"(?m)^SYSCALL_DEFINE(\d)\({name}\b")
    if not definition.search(source.new):
        return None
    text = definition.sub(rf"KPATCH_SYSCALL_DEFINE\1({name}", source.new)
    what = f"the system call {name} is defined by KPATCH_SYSCALL_DEFINE"
    why = (
        "It gives the function that does the work a new name, so that the entry point, which can be redirected, changes"
    )
    step = RewriteStep(code=found.code, path=source.path, what=what, why=why)
    return Rewritten(put(sources, replace(source, new=text).including(SYSCALLS)), (step,))


def plain_static_keys(found: Problem, sources: Mapping[str, Source]) -> Rewritten | Unsafe | None:
    """Read a static key of a module, or one that the series adds, as an ordinary variable."""
    if found.code != "jump-label":
        return None
    match, own = _KEYED.match(found.message), _OWN_KEY.match(found.message)
    if match is None and own is None:
        return None
    function, key = (match[1], match[2]) if match is not None else ("", own[1] if own is not None else "")
    test = re.compile(rf"\bstatic_branch_(likely|unlikely)\s*\(\s*&\s*{key}\s*\)")
    steps, changed = list[RewriteStep](), dict(sources)
    for path, source in sources.items():
        for item in reversed(source.new_items):
            # Only code that the series changes tests a key of the series; inlined functions may test other keys too.
            if item.kind is not DefinitionKind.FUNCTION or (
                function and item.name != function and "inline" not in item.words
            ):
                continue
            text, count = test.subn(rf"\1(static_key_enabled(&{key}))", source.body(item))
            if count:
                changed[path] = changed[path].with_body(item, text)
                what = f"{item.name}() reads {key} by static_key_enabled()"
                why = "The kernel fills in a static branch before it resolves the livepatch's reference to the key"
                steps.append(RewriteStep(code=found.code, path=path, what=what, why=why))
    if not steps:
        return Unsafe(f"{key} is tested in a function or macro of a header, which other code uses too.")
    return Rewritten(changed, tuple(steps))


def plain_static_calls(found: Problem, sources: Mapping[str, Source]) -> Rewritten | Unsafe | None:
    """Turn the static calls of a function into ordinary calls through the pointer in their key."""
    match = _CALLING.match(found.message)
    if found.code != "static-call" or match is None:
        return None
    for path, source in sources.items():
        item = source.function(match[1])
        if item is None:
            continue
        text, count = re.subn(r"(?<!_)\bstatic_call\s*\((?=\s*\w+\s*\)\s*\()", "KPATCH_STATIC_CALL(", source.body(item))
        if count:
            what = f"{item.name}() calls through the pointer of a static call's key (KPATCH_STATIC_CALL)"
            why = "The kernel fills in a static call before it resolves the livepatch's reference to the key"
            step = RewriteStep(code=found.code, path=path, what=what, why=why)
            return Rewritten(put(sources, source.with_body(item, text).including(MACROS)), (step,))
    return Unsafe(f"The static call of {match[1]} is made in a function or macro of a header.")
