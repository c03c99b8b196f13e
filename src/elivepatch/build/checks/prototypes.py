# SPDX-License-Identifier: GPL-2.0-or-later
"""Prototypes of exported functions: series that change how one is called are refused.

Modules that were compiled for the old parameters would call the new code. The kernel's own protection, the checksum of
an export, does not help: a livepatch does not change the export.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from elivepatch.build.sandbox.output import source_text
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.patch.c_source import Definition, DefinitionKind, read_definitions
from elivepatch.patch.parse import FileKind, TouchedFile

_POINTER = re.compile(r"\(\s*\*\s*\w*\s*\)")
_NAME = re.compile(
    r"(?<=[\w*\s])\b(?!(?:int|char|long|short|void|bool|unsigned|signed)\b)[A-Za-z_]\w*(?=(?:\s*\[[^]]*\])*$)"
)
_TAGGED = re.compile(r"^(?:const |volatile )*(?:struct|union|enum) \w+$")
# The spellings of one integer type, and the one to compare.
_SPELLINGS = (
    (re.compile(r"\b(long|short) unsigned\b"), r"unsigned \1"),
    (re.compile(r"\b(long|short) int\b"), r"\1"),
    (re.compile(r"\bunsigned\b(?!\s+(?:int|long|short|char)\b)"), "unsigned int"),
)
_NO_PART = re.compile(r"\b(?:inline|noinline|notrace|asmlinkage|__\w+)\b(?:\([^()]*\))?")


def check_prototypes(touched: Sequence[TouchedFile], *, tree: Path, layer: Path) -> None:
    """Raise BuildStopped with `export-type` if a source in `layer` gives an exported function another type."""
    for file in touched:
        if file.kind is not FileKind.SOURCE:
            continue
        old_text, new_text = source_text(tree, file.path), source_text(layer, file.path)
        if old_text is None or new_text is None:
            continue
        before, after = _exported(old_text), _exported(new_text)
        for name in sorted(before.keys() & after.keys()):
            old, new = (signature(one[name]) for one in (before, after))
            if old != new:
                raise BuildStopped(
                    problem(
                        "export-type", f"{file.path} changes how the exported {name} is called.",
                        excerpt=f"- {before[name].head}\n+ {after[name].head}",
                    )
                )  # fmt: skip


def signature(function: Definition) -> str:
    """Return the type of a function as text, without the names of its parameters."""
    text = _NO_PART.sub(" ", function.head)
    start = text.find("(", text.find(function.name))
    parameters = [_typed(one) for one in _split(text[start + 1 : text.rfind(")")])]
    plain = re.sub(r"\s*([*,()])\s*", r"\1", f"{text[:start]}({','.join(parameters)})")
    plain = " ".join(plain.split())
    for pattern, spelling in _SPELLINGS:
        plain = pattern.sub(spelling, plain)
    return plain


def _exported(source: str) -> dict[str, Definition]:
    items = read_definitions(source)
    exports = {one.name for one in items if one.kind is DefinitionKind.USE and one.head.startswith("EXPORT_SYMBOL")}
    return {one.name: one for one in items if one.kind is DefinitionKind.FUNCTION and one.name in exports}


def _typed(parameter: str) -> str:
    words = " ".join(parameter.split())
    if _POINTER.search(words):
        return _POINTER.sub("(*)", words)
    return words if _TAGGED.match(words) or " " not in words.replace("*", " ") else _NAME.sub("", words).strip()


def _split(parameters: str) -> list[str]:
    parts, depth, part = [], 0, ""
    for character in parameters:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append(part)
            part = ""
        else:
            part += character
    return [*parts, part]
