# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of enumerators: memory of a running kernel holds the old ones.

A number that counts the others (`NR_STATES`, `STATE_MAX`) grows when one is added before it, which is no change of the
others. If it is the length of an array, the comparison of the structures shows the change.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from elivepatch.kernel.btf import Btf, BtfKind, Type

# Words at the beginning or the end of a name; `NR` says it anywhere. Others in the middle, as in CMD_GET_NUM_QUEUES,
# may belong to a number that counts nothing.
_COUNTING = frozenset({
    "CNT", "COUNT", "ENTRIES", "LAST", "LEN", "LIMIT", "MAX", "N", "NR", "NUM", "NUMBER", "SENTINEL", "SIZE", "TOTAL",
})  # fmt: skip
_KINDS = frozenset({BtfKind.ENUM, BtfKind.ENUM64})
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
    highest_before, highest_after = _highest(old), _highest(new)
    found = []
    for name in sorted(ours.keys() & theirs.keys()):
        # A name that only lost or only gained a number belongs to another enumeration, in a function of its own.
        gone, come = (
            {value: enum for value, enum in mine.items() if value not in other}
            for mine, other in ((ours[name], theirs[name]), (theirs[name], ours[name]))
        )
        if gone and come:
            (before, old_enum), (after, new_enum) = min(gone.items()), min(come.items())
            counts = (
                is_counting(name)
                and before >= highest_before[old_enum.number]
                and after >= highest_after[new_enum.number]
            )
            enum = f"enum {old_enum.name}" if old_enum.name else "an enumeration without a name"
            found.append(Renumbered(name, enum, before, after, counts))
    return sorted(found, key=lambda one: one.counts)


def is_counting(name: str) -> bool:
    """Return if an enumerator is called like the number of others, or the last of them."""
    words = [word.upper() for word in _WORD.findall(name)]
    return bool(words) and ("NR" in words or not _COUNTING.isdisjoint({words[0], words[-1]}))


def _highest(btf: Btf) -> dict[int, float]:
    """Return the highest number of each enumeration that is not a count of the others, infinity if there is none."""
    return {
        one.number: max((value for name, value in one.enumerators if not is_counting(name)), default=math.inf)
        for one in btf.types
        if one.kind in _KINDS
    }


def _by_name(btf: Btf) -> dict[str, dict[int, Type]]:
    found: dict[str, dict[int, Type]] = {}
    for one in btf.types:
        if one.kind in _KINDS:
            for name, value in one.enumerators:
                found.setdefault(name, {})[value] = one
    return found
