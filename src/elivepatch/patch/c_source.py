# SPDX-License-Identifier: GPL-2.0-or-later
"""Top-level definitions of a C source of the kernel, with their lines.

This is not a parser of C. It relies on the layout of the kernel's coding style (Documentation/process/coding-style.rst)
and reads the source without preprocessing, so that lines and words are those of a patch. An unknown form is left out,
never guessed.
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

# A literal that is not closed ends with its line, as in gcc. Otherwise each of its quotes would begin another try.
_HIDDEN = re.compile(
    r"""/\*.*?(?:\*/|\Z) | //[^\n]* | "(?:\\.|[^"\\\n])*+("?) | '(?:\\.|[^'\\\n])*+('?)""", re.VERBOSE | re.DOTALL
)
_WORD = re.compile(r"[A-Za-z_]\w*")
_IN_NAME = re.compile(r"\w")
_TAG = re.compile(r"\b(?:struct|union|enum)\s+(\w+)\s*$")
_MACRO = re.compile(r"\s*#\s*define\s+(\w+)")
_SYSCALL = re.compile(r"(?:COMPAT_)?SYSCALL_DEFINE\d$")
# Words that may be between a function's parameters and its body, or after the name of a variable.
_ANNOTATION = re.compile(r"__\w+$")
# An index in brackets, which may hold one more; never read past the next bracket, so that a row of them takes no time.
_INDEX = r"\[(?:[^\[\]]|\[[^\[\]]*\])*+\]"
_POINTED = re.compile(rf"\(\s*\*\s*(?:const\s+)?(\w+)\s*(?:{_INDEX}\s*)?\)\s*\(")
_ASIDE = re.compile(rf"\([^()]*\)|{_INDEX}")
_NAME_ALONE = re.compile(r"\s*\w+\s*")
_TYPE_WORDS = frozenset(("static", "const", "volatile", "extern", "struct", "union", "enum", "unsigned", "signed"))

STARTING = frozenset(("__init", "__initdata", "__initconst", "__init_or_module", "__meminit"))
"""Marks of code and data that the kernel frees after it or a module has started (include/linux/init.h)."""

ENDING = frozenset(("__exit", "__exitdata"))
"""Marks of code and data for the end of a module: they are used at most once more."""


class DefinitionKind(enum.StrEnum):
    """Kind of a top-level item; a use is the call of a macro such as EXPORT_SYMBOL(x)."""

    FUNCTION = "function"
    DATA = "data"
    TYPE = "type"
    MACRO = "macro"
    USE = "use"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One item. `start` and `end` are its first and last line, from 1; `head` is its text up to `{`, `=` or `;`.

    `name` is the name that other code uses; that of a use is its first argument. In `head`, words are one space apart.
    """

    kind: DefinitionKind
    name: str
    start: int
    end: int
    head: str

    @property
    def words(self) -> frozenset[str]:
        """The identifiers in the head."""
        return frozenset(_WORD.findall(self.head))


def read_definitions(text: str) -> tuple[Definition, ...]:
    """Return the top-level items of a source in their order; their lines do not overlap."""
    return tuple(_items(blanked(text).split("\n")))


def enclosing(definitions: tuple[Definition, ...], line: int) -> Definition | None:
    """Return the item that the line is part of, None if it is part of none."""
    at = bisect_left(definitions, line, key=lambda one: one.end)
    return definitions[at] if at < len(definitions) and definitions[at].start <= line else None


def words_of(text: str) -> frozenset[str]:
    """Return the identifiers in a piece of code, without those in comments and literals."""
    return frozenset(_WORD.findall(blanked(text)))


def blanked(text: str) -> str:
    """Return the text with comments and the content of literals as blanks; all other characters keep their place."""

    def hidden(found: re.Match[str]) -> str:
        plain = re.sub(r"[^\n]", " ", found[0])
        if found[0][0] == "/":
            return plain
        closing = found[1] or found[2] or ""
        return f"{found[0][0]}{plain[1 : len(plain) - len(closing)]}{closing}"

    return _HIDDEN.sub(hidden, text)


class _Head:
    """Text of the item that has begun. Each line asks about it, so the answers are kept while the text grows."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._opened = self._closed = 0
        self._assigned = self._behind_braces = self._like_a_call = False

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, piece: str, *, behind_braces: bool) -> None:
        """Add a piece of a line, which is not blank."""
        # The `}` separates words after the braces, as in `} name;`, from words before them.
        self._pieces.append(f"}} {piece}" if behind_braces else piece)
        self._opened += piece.count("(")
        self._closed += piece.count(")")
        self._assigned |= "=" in piece
        self._behind_braces |= behind_braces
        if len(self._pieces) == 1:
            name = _NAME_ALONE.match(piece)
            self._like_a_call = name is not None and piece.startswith("(", name.end())
        elif len(self._pieces) == 2 and _NAME_ALONE.fullmatch(self._pieces[0]):
            self._like_a_call = piece.lstrip().startswith("(")
        self.__dict__.pop("text", None)
        self.__dict__.pop("is_function", None)

    @property
    def balanced(self) -> bool:
        return self._opened <= self._closed

    @property
    def complete_use(self) -> bool:
        """True if this is a name with parentheses around all that follows: the use of a macro."""
        called = self._like_a_call and not self._assigned
        return called and self.balanced and self._pieces[-1].rstrip().endswith(")")

    @cached_property
    def text(self) -> str:
        return " ".join(" ".join(self._pieces).split())

    @cached_property
    def is_function(self) -> bool:
        return not self._behind_braces and _is_function(self.text)


class _Reader:
    """State between two lines of a source: the item that has begun."""

    def __init__(self) -> None:
        self._head = _Head()
        self._start = self._depth = 0
        self._opened = False  # True after the item's braces

    @property
    def between(self) -> bool:
        """True if no item has begun."""
        return not self._head

    def read(self, line: str, number: int) -> Iterator[Definition]:
        """Take the next line, which must not be a directive of the preprocessor; yield the items that it ends."""
        if line[:1] == "}":
            # It also ends blocks that branches of an #if have left open.
            self._depth = min(self._depth, 1)
        if line[:1].strip() and line[0] != "{" and not self._depth:
            yield from self.finish(number - 1)
        for piece in re.split(r"([{};])", line):
            if piece in {"{", "}"}:
                self._depth = max(0, self._depth + (1 if piece == "{" else -1))
                self._opened = True
                if piece == "}" and not self._depth and self._head.is_function:
                    yield self._end(number)
            elif piece == ";":
                if not self._depth and self._head.balanced:
                    if self._head:
                        yield self._end(number)
                    self._opened = False
            elif piece.strip():
                self._start = self._start if self._head else number
                if not self._depth:
                    self._head.add(piece, behind_braces=self._opened)

    def finish(self, number: int) -> Iterator[Definition]:
        """Yield the item that has begun, if it is the use of a macro without a semicolon."""
        if self._head and not self._opened and self._head.complete_use:
            yield self._end(number)

    def _end(self, number: int) -> Definition:
        item = _item(self._head, self._start, number, body=self._opened)
        self._head, self._opened = _Head(), False
        return item


def _items(lines: list[str]) -> Iterator[Definition]:
    reader = _Reader()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.lstrip().startswith("#"):
            yield from reader.read(line, number)
            continue
        first = number
        while lines[number - 1].rstrip().endswith("\\") and number < len(lines):
            number += 1
        if (macro := _MACRO.match(line)) and reader.between:
            yield Definition(
                kind=DefinitionKind.MACRO, name=macro[1], start=first, end=number, head=f"#define {macro[1]}"
            )
    yield from reader.finish(len(lines))


def _is_function(text: str) -> bool:
    if "=" in re.sub(r"\([^()]*\)", "", text) or "}" in text:
        return False
    # Only words may follow the parameters. One pattern for all would try every way to split the words of a long head.
    _, closed, behind = text.rpartition(")")
    return bool(closed) and not re.search(r"[^\w\s]", behind) and bool(_function_name(text))


def _function_name(text: str) -> str:
    """Return the word before the parameters, which are the last parentheses that do not belong to an annotation."""
    rest = len(text)
    while (end := text.rfind(")", 0, rest)) >= 0:
        if (at := _opening(text, end)) < 0:
            return ""
        stop = at - text.endswith(" ", 0, at)  # no two blanks are in a row
        start = stop
        while start > 0 and _IN_NAME.match(text, start - 1):
            start -= 1
        named = _WORD.search(text, start, stop)
        if named is None:
            return ""
        rest = named.start() - text.endswith(" ", 0, named.start())
        if not (_ANNOTATION.match(named[0]) and text.endswith(")", 0, rest)):
            arguments = text[at + 1 : end]
            return f"sys_{arguments.split(',')[0].strip()}" if _SYSCALL.match(named[0]) else named[0]
    return ""


def _opening(text: str, end: int) -> int:
    """Return the place of the parenthesis that the one at `end` closes, -1 if there is none."""
    depth = 0
    for at in range(end, -1, -1):
        depth += {")": 1, "(": -1}.get(text[at], 0)
        if not depth:
            return at
    return -1


def _item(head: _Head, start: int, end: int, *, body: bool) -> Definition:
    text = head.text
    shown, _, _ = text.partition("=")
    shown = shown.strip()
    if body and "=" not in text and "}" not in text and head.is_function:
        return Definition(kind=DefinitionKind.FUNCTION, name=_function_name(text), start=start, end=end, head=text)
    if re.fullmatch(r"(?:static )?(?:const )?\w+ ?\((?!\s*\*).*\)", text) and "=" not in text:
        # A macro that defines something has the type, if any, as its first argument, then the name.
        arguments = _WORD.findall(text[text.index("(") :])
        return Definition(
            kind=DefinitionKind.USE, name=arguments[0] if arguments else "", start=start, end=end, head=text
        )
    before, _, behind = shown.partition("}")
    if body and "=" not in text and (tag := _TAG.search(before)) and not behind.strip("} ").strip():
        return Definition(kind=DefinitionKind.TYPE, name=tag[1], start=start, end=end, head=before.strip())
    if text.startswith("typedef"):
        names = [word for word in _WORD.findall(behind or shown) if not _ANNOTATION.match(word)]
        return Definition(kind=DefinitionKind.TYPE, name=names[-1] if names else "", start=start, end=end, head=shown)
    if _is_data(shown, initialised="=" in text, body=body):
        return Definition(kind=DefinitionKind.DATA, name=_variable(behind or shown), start=start, end=end, head=shown)
    return Definition(kind=DefinitionKind.OTHER, name="", start=start, end=end, head=shown)


def _is_data(shown: str, *, initialised: bool, body: bool) -> bool:
    if shown.startswith("extern") or not _variable(shown):
        return False
    # A prototype ends with its parameters, so it is not data.
    return (
        initialised
        or _POINTED.search(shown) is not None
        or (not body and "(" not in shown and len(_WORD.findall(shown)) > 1)
        or "}" in shown
    )


def _variable(shown: str) -> str:
    plain = _ASIDE.sub(" ", shown)
    pointer = _POINTED.search(shown)
    if pointer:
        return pointer[1]
    words = [word for word in _WORD.findall(plain) if not _ANNOTATION.match(word) and word not in _TYPE_WORDS]
    return words[-1] if words else ""
