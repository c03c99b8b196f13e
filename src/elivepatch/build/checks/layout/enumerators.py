# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of enumerators: memory of a running kernel holds the old ones.

A number that counts the others (`NR_STATES`, `STATE_MAX`) grows when one is added before it, which is no change of the
others. If it is the length of an array, the comparison of the structures shows the change.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from elivepatch.kernel.btf import Btf, BtfKind, Type

_COUNTING = frozenset({
    "CNT", "COUNT", "ENTRIES", "LAST", "LEN", "LIMIT", "MAX", "N", "NR", "NUM", "NUMBER", "SENTINEL", "SIZE", "TOTAL",
})  # fmt: skip
_WORD = re.compile(r"[^_]+")


class Renumbered(NamedTuple):
    """An enumerator with another number; `counts` is true if it only counts the others. `enum` is its enumeration."""

    name: str
    enum: str
    old: int
    new: int
    counts: bool


def compare_enumerators(old: Btf, new: Btf) -> list[Renumbered]:
    """Return the enumerators that both objects have with another number, those that only count last."""
    ours, theirs = _by_name(old), _by_name(new)
    found = []
    for name in sorted(ours.keys() & theirs.keys()):
        # A name that only lost or only gained a number belongs to another enumeration, in a function of its own.
        gone, come = (
            {value: enum for value, enum in mine.items() if value not in other}
            for mine, other in ((ours[name], theirs[name]), (theirs[name], ours[name]))
        )
        if gone and come:
            (before, old_enum), (after, new_enum) = min(gone.items()), min(come.items())
            counts = counts_others(name, old_enum) and counts_others(name, new_enum)
            enum = f"enum {old_enum.name}" if old_enum.name else "an enumeration without a name"
            found.append(Renumbered(name, enum, before, after, counts))
    return sorted(found, key=lambda one: one.counts)


def counts_others(name: str, enum: Type) -> bool:
    """Return if an enumerator is called like a number of others and no enumerator that is not comes after it."""
    others = [value for other, value in enum.enumerators if not _is_counting(other)]
    values = [value for other, value in enum.enumerators if other == name]
    return _is_counting(name) and bool(others) and max(values, default=0) >= max(others)


def _is_counting(name: str) -> bool:
    words = [word.upper() for word in _WORD.findall(name)]
    return bool(words) and not _COUNTING.isdisjoint({words[0], words[-1]})


def _by_name(btf: Btf) -> dict[str, dict[int, Type]]:
    found: dict[str, dict[int, Type]] = {}
    for one in btf.types:
        if one.kind in {BtfKind.ENUM, BtfKind.ENUM64}:
            for name, value in one.enumerators:
                found.setdefault(name, {})[value] = one
    return found
