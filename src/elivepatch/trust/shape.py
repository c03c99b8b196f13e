# SPDX-License-Identifier: GPL-2.0-or-later
"""Shapes of JSON documents: exactly these keys, and values of these kinds. A document that fits holds nothing else.

A shape is a regular expression for a text, a mapping of keys to shapes, a list with the one shape of its items, `bool`,
`int` (from 0 to 2^53, which every reader of JSON keeps), a `Choice`, a `Maybe` or a `Table`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MAX_ITEMS = 4096
_MAX_INT = 2**53


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few texts."""

    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value, or null."""

    shape: Any


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping of any keys that match, to values of one shape."""

    key: re.Pattern[str]
    shape: Any


def misfit(shape: Any, value: Any, place: str = "") -> str | None:
    """Return the place of the first part of `value` that does not fit `shape`, as `a.b[2]`; None if all of it fits."""
    if isinstance(shape, Maybe):
        return None if value is None else misfit(shape.shape, value, place)
    if isinstance(shape, dict):
        return _in_mapping(shape, value, place)
    if isinstance(shape, list):
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            return place
        return _first(misfit(shape[0], one, f"{place}[{number}]") for number, one in enumerate(value))
    if isinstance(shape, Table):
        if not isinstance(value, dict) or len(value) > MAX_ITEMS or not all(map(shape.key.fullmatch, value)):
            return place
        return _first(misfit(shape.shape, one, _below(place, key)) for key, one in value.items())
    return None if _is_simple(shape, value) else place


def _in_mapping(shape: dict[str, Any], value: Any, place: str) -> str | None:
    if not isinstance(value, dict):
        return place
    other = sorted(shape.keys() ^ value.keys())
    if other:
        return _below(place, other[0][:80])
    return _first(misfit(inner, value[key], _below(place, key)) for key, inner in shape.items())


def _is_simple(shape: Any, value: Any) -> bool:
    if shape is bool:
        return isinstance(value, bool)
    if shape is int:
        # To Python, True is an int.
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INT
    if isinstance(shape, Choice):
        return isinstance(value, str) and value in shape.words
    return isinstance(value, str) and shape.fullmatch(value) is not None


def _first(places: Any) -> str | None:
    return next((place for place in places if place is not None), None)


def _below(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
