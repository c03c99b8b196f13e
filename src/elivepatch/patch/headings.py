# SPDX-License-Identifier: GPL-2.0-or-later
"""Headings of hunks: the text after the second @@, which names the item that begins before the hunk.

GNU diff -p and git print the last line before the hunk's first line that begins with a letter, `_` or `$`, cut to 40 or
80 bytes. git leaves out labels for files with the attribute diff=cpp, which the kernel's .gitattributes gives to C.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

_BEGIN = re.compile(r"[A-Za-z_$]")
_LABEL = re.compile(r"(?:case\b[^;{]*|[A-Za-z_]\w*+\s*+):(?!:)")
# A heading is as long as its author likes: a name is tried at its first letter only, and no bracket is read twice.
# A name before parentheses that are not those of a pointer to a function.
_CALLED = re.compile(r"(?<![\w$])([A-Za-z_$][\w$]*+)\s*+\((?!\s*\*)\s*+(\w*+)\s*+([,)])?")
_TAGGED = re.compile(r"\b(struct|union|enum)\s+(\w+)\s*\{")
_VARIABLE = re.compile(r"(?<!\w)(\w++)\s*+(?:\[(?:[^\[\]]|\[[^\[\]]*\])*+\]\s*+)*+[=;]")
_ANNOTATIONS = frozenset(
    ("__attribute__", "__printf", "__scanf", "__aligned", "__section", "__acquires", "__releases", "__must_hold",
     "__cond_lock", "__alloc_size", "__cold", "__assume_aligned", "__no_sanitize", "__diag_ignore", "__bpf_kfunc")
)  # fmt: skip
# diff -p cuts at 40 bytes and then drops blanks at the end.
_CUT_FROM = 37
_GIT_CUTS_AT = 80


def is_label(line: str) -> bool:
    """Return if a line that begins with a letter is a label or a case of a switch."""
    return _LABEL.match(line) is not None


def squeezed(text: str) -> str:
    """Return a text with one space for each run of white space, none at its ends."""
    return " ".join(text.split())


def named(heading: str) -> str | None:
    """Return the name of the item that a heading begins, None if it names nothing: a label, or a name that is cut off.

    A use of a macro with a name in capitals is named with its first argument: SYSCALL_DEFINE2(kill.
    """
    if is_label(heading) or not _BEGIN.match(heading):
        return None
    head, _, _ = heading.partition("=")
    for name, argument, closed in _CALLED.findall(head):
        if name in _ANNOTATIONS:
            continue
        if name != name.upper():
            return str(name)
        return f"{name}({argument}" if argument and closed else None
    if tag := _TAGGED.search(heading):
        return f"{tag[1]} {tag[2]}"
    variable = _VARIABLE.search(heading)
    return variable[1] if variable else None


def is_cut(heading: str) -> bool:
    """Return if a heading is the beginning of an item, cut off so that its name may be missing."""
    return len(heading.rstrip()) >= _CUT_FROM and bool(_BEGIN.match(heading)) and not is_label(heading)


def agree(heading: str, line: str) -> bool:
    """Return if a hunk's heading can be that of an item which begins with `line`, maybe of another version."""
    ours, theirs = squeezed(heading), squeezed(line)
    if not ours or not theirs:
        return ours == theirs
    if ours == theirs or (is_cut(heading) and theirs.startswith(ours)):
        return True
    return (name := named(ours)) is not None and name == named(theirs)


def with_headings(diff: Iterable[str], old: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a diff of the lines `old`, as difflib makes it, with the headings of git."""
    headings = Headings(old)
    for line in diff:
        if line.startswith("@@ -"):
            start, _, count = line.split()[1][1:].partition(",")
            text = headings.text(int(start) + (count == "0"))[:_GIT_CUTS_AT].rstrip()
            yield f"{line.rstrip()} {text}".rstrip() + "\n"
        else:
            yield line


class Headings:
    """Headings that diff would print for hunks of one text."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._all = [number for number, line in enumerate(lines, 1) if _BEGIN.match(line)]
        self._items = [number for number in self._all if not is_label(lines[number - 1])]

    def item(self, number: int) -> int:
        """Return the number of the line that begins the last item before line `number`, 0 if there is none."""
        return _before(self._items, number)

    def text(self, number: int) -> str:
        """Return the line that begins the last item before line `number`, empty if there is none."""
        return self._text(self.item(number))

    def possible(self, number: int) -> set[str]:
        """Return the headings of a hunk whose first line is `number`: with labels, and without."""
        return {self._text(_before(self._all, number)), self.text(number)}

    def begins(self, name: str) -> int | None:
        """Return the number of the first line that begins the item `name` and is no declaration, None without one."""
        found = [number for number in self._items if named(self._lines[number - 1]) == name]
        return next((one for one in found if not self._lines[one - 1].rstrip().endswith(";")), None)

    def _text(self, number: int) -> str:
        return self._lines[number - 1].rstrip() if number else ""


def _before(numbers: Sequence[int], number: int) -> int:
    at = bisect_left(numbers, number)
    return numbers[at - 1] if at else 0
