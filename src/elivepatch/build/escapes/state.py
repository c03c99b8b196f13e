# SPDX-License-Identifier: GPL-2.0-or-later
"""Knowledge of what registers and places of the stack may point to, before one instruction of a function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from elivepatch.build.escapes.image import Node, Thing

_Key = TypeVar("_Key")


class Spot(NamedTuple):
    """A place of the stack, by its distance from the return address of the function."""

    offset: int


class Elsewhere(NamedTuple):
    """Any place outside the livepatch and the stack, beside others that a value may point to."""


Value = frozenset[Thing | Spot | Elsewhere]
_PLACES = 64
"""Limit of the places that one register or place of the stack may point to."""
NOTHING: Value = frozenset()
ELSEWHERE: Value = frozenset((Elsewhere(),))


@dataclass(slots=True)
class State:
    """State before an instruction of `function`; `stack` is the distance of the stack pointer, as in `Spot`."""

    function: Node
    stack: int = 0
    registers: dict[str, Value] = field(default_factory=dict)
    spots: dict[int, Value] = field(default_factory=dict)

    def copy(self) -> State:
        """Return a state of its own that knows the same."""
        return State(self.function, self.stack, dict(self.registers), dict(self.spots))

    def add(self, other: State) -> bool:
        """Add what `other` knows; return whether that is more."""
        changed = _join(self.registers, other.registers, mixing=True)
        return _join(self.spots, other.spots, mixing=False) or changed


class TooLarge(Exception):
    """The code has more states than are followed, or is not found by its name."""


def _join(mine: dict[_Key, Value], theirs: dict[_Key, Value], *, mixing: bool) -> bool:
    changed = False
    for key in {*mine, *theirs}:
        one, other = mine.get(key, NOTHING), theirs.get(key, NOTHING)
        both = one | other
        if mixing and bool(one) != bool(other):
            both |= ELSEWHERE
        if both != one:
            if len(both) > _PLACES:
                raise TooLarge  # a loop moves a pointer through the stack: each turn would add a place
            mine[key] = both
            changed = True
    return changed


def shifted(value: Value, distance: int) -> Value:
    """Return the value with a distance added to its places of the stack."""
    return frozenset(Spot(one.offset + distance) if isinstance(one, Spot) else one for one in value)
