# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions of the kernel that keep none of their arguments, or only some, after they have returned."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

# Assembly that changes no register but that of the result, and functions that are called as such.
_TRANSPARENT = re.compile(
    r"__fentry__|__get_user_\w+|__sw_hweight(?:32|64)|__SCT__(?:might|cond)_resched|__SCT__preempt_schedule\w*"
)


def keeps(function: str, position: int) -> bool:
    """Return whether `function` may keep the argument at a position, which counts from 0."""
    if function in _named("nothing") or function in _named("returning") or changes_no_register(function):
        return False
    kept: list[int] | None = _table()["some"].get(function)
    return kept is None or position in kept


def returns_argument(function: str) -> bool:
    """Return whether the result of `function` may lead to where its arguments lead."""
    return function in _named("returning")


def changes_no_register(function: str) -> bool:
    """Return whether a call of `function` leaves all registers but the one of the result as they are."""
    return _TRANSPARENT.fullmatch(function) is not None


@cache
def _named(part: str) -> frozenset[str]:
    return frozenset(name for group in _table()[part].values() for name in group.split())


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("elivepatch.build") / "data/keepers.toml").read_text(encoding="utf-8"))
