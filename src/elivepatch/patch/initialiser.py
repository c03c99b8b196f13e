# SPDX-License-Identifier: GPL-2.0-or-later
"""Reader of a table's initialiser (C11 6.7.9), without preprocessing: the value of each member."""

from __future__ import annotations

import re

from elivepatch.patch.c_source import blanked

_DESIGNATOR = re.compile(r"\s*((?:\.\s*\w+\s*|\[[^\]]*\]\s*)+)=(?!=)\s*")
_DIRECTIVE = re.compile(r"(?m)^[ \t]*#.*$")
_BLANK = re.compile(r"\s*")
_DEPTH_LIMIT = 8


def read_members(text: str) -> dict[str, str]:
    """Return the value of every member in a definition's text, by its path such as `.open` or `[1].check`.

    Elements without a designator are counted. Conditional parts count as if all were compiled: a caller that must be
    sure has to check the member's offset. The result is empty for a text without an initialiser in braces.
    """
    plain = _DIRECTIVE.sub(lambda found: " " * len(found[0]), blanked(text))
    start = plain.find("{", plain.find("=")) if "=" in plain else -1
    members: dict[str, str] = {}
    if start >= 0:
        _group(plain, text, start + 1, "", members, 0)
    return members


def _group(plain: str, text: str, position: int, prefix: str, members: dict[str, str], level: int) -> int:
    """Read the elements after an opening brace; return the position after the brace that closes it."""
    index = 0
    while position < len(plain):
        if found := _DESIGNATOR.match(plain, position):
            path, position = f"{prefix}{''.join(found[1].split())}", found.end()
        else:
            path = f"{prefix}[{index}]"
            position = _after_blanks(plain, position)
        if plain[position : position + 1] == "{" and level < _DEPTH_LIMIT:
            position = _group(plain, text, position + 1, path, members, level + 1)
            index += 1
        else:
            end = _end(plain, position)
            if value := " ".join(text[position:end].split()):
                members[path] = value
                index += 1
            position = end
        position = _after_blanks(plain, position)
        if plain[position : position + 1] == ",":
            position += 1
        elif plain[position : position + 1] == "}":
            return position + 1
        elif position >= len(plain):
            break
        else:
            position += 1
    return len(plain)


def _after_blanks(plain: str, position: int) -> int:
    found = _BLANK.match(plain, position)
    return found.end() if found is not None else position


def _end(plain: str, position: int) -> int:
    """Return the end of a value: a comma or a closing brace outside all brackets."""
    depth = 0
    for at in range(position, len(plain)):
        character = plain[at]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            if not depth:
                return at
            depth -= 1
        elif character == "," and not depth:
            return at
    return len(plain)
