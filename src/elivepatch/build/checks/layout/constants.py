# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of macros: debug information does not have them, so they are read in the sources.

No check can find out if memory holds such a number, so the change becomes a note.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from elivepatch.build.sandbox.output import source_text
from elivepatch.model.build import Note
from elivepatch.patch.parse import FileKind, TouchedFile

_DEFINE = re.compile(r"(?m)^[ \t]*#[ \t]*define[ \t]+([A-Za-z_]\w*)[ \t]+((?:[^\n\\]|\\.)*)$")
_COMMENT = re.compile(r"/\*.*?\*/|/\*.*$|//.*$")
_BIT = re.compile(r"\b(?:BIT|BIT_ULL|_BITUL|_BITULL)\(")
_NUMBER = re.compile(r"\b(0[xX][0-9a-fA-F]+|[0-9]+)[uUlL]*\b")
_NUMBERS_ONLY = re.compile(r"[0-9()+\-*/|&~<> \t]+")
_LENGTH_LIMIT, _SHIFT_LIMIT, _NOTES_LIMIT = 120, 64, 20
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
}  # fmt: skip


class Redefined(NamedTuple):
    """A macro that stood for one number and stands for another."""

    name: str
    path: str
    old: str
    new: str


def constant_notes(touched: Sequence[TouchedFile], *, tree: Path, layer: Path) -> tuple[Note, ...]:
    """Return a note for each macro of the touched files whose number the series changes.

    `tree` is the original source, `layer` holds the changed files.
    """
    found: list[Redefined] = []
    for file in touched:
        if file.kind not in {FileKind.SOURCE, FileKind.HEADER} or file.added or file.removed:
            continue
        texts = source_text(tree, file.path), source_text(layer, file.path)
        if texts[0] is not None and texts[1] is not None:
            found += redefined(file.path, texts[0], texts[1])
    notes = [
        Note(
            code="constant",
            message=f"{one.path} changes {one.name} from {one.old} to {one.new}. Memory may hold the old number: "
            f"look at all places that store {one.name} or compare with it.",
        )
        for one in found[:_NOTES_LIMIT]
    ]
    if beyond := found[_NOTES_LIMIT:]:
        notes.append(Note(code="constant", message=f"{len(beyond)} more macros have other numbers: {beyond[0].name}…"))
    return tuple(notes)


def redefined(path: str, old: str, new: str) -> Iterator[Redefined]:
    """Yield the macros with another number in the text `new` of the file at `path`."""
    ours, theirs = _definitions(old), _definitions(new)
    for name in ours.keys() & theirs.keys():
        # A macro may be defined several times, for several configurations.
        gone, come = (
            {value: text for value, text in mine.items() if value not in other}
            for mine, other in ((ours[name], theirs[name]), (theirs[name], ours[name]))
        )
        if gone and come:
            yield Redefined(name, path, next(iter(gone.values())), next(iter(come.values())))


def number_of(text: str) -> int | None:
    """Return the number that a macro's text stands for, None if it is none or uses other macros."""
    text = _COMMENT.sub("", text).strip()
    if not text or len(text) > _LENGTH_LIMIT:
        return None
    text = _NUMBER.sub(lambda found: str(_integer(found[1])), _BIT.sub("(1 << ", text))
    if not _NUMBERS_ONLY.fullmatch(text):
        return None
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _definitions(text: str) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for name, value in _DEFINE.findall(text):
        if (number := number_of(value)) is not None:
            found.setdefault(name, {})[number] = _COMMENT.sub("", value).strip()
    return found


def _integer(text: str) -> int:
    if text[:2] in {"0x", "0X"}:
        return int(text, 16)
    return int(text, 8) if text.startswith("0") and text.isdecimal() and set(text) <= set("01234567") else int(text)


def _value(node: ast.expr) -> int:
    """Return the value of an expression of numbers; raises ValueError for anything else."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return ~_value(operand)
        case ast.BinOp(left=left, op=ast.LShift(), right=right) if 0 <= (by := _value(right)) < _SHIFT_LIMIT:
            return _value(left) << by
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError(ast.dump(node)[:80])
