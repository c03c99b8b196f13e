# SPDX-License-Identifier: GPL-2.0-or-later
"""Shapes of types: the members of a structure at their places, and the plain memory that a type stands for."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from elivepatch.build.checks.layout.words import declared
from elivepatch.kernel.btf import COMPOSITES, Btf, BtfKind, Type

DEPTH_LIMIT = 40
"""Structures inside structures; the kernel's deepest has a dozen. A patch can nest them without a limit."""
_LEAVES_LIMIT = 4096


class Field(NamedTuple):
    """A member with a name, in its structure or in one without a name inside it; places and widths are in bits.

    `width` is 0 unless the member is a bit-field.
    """

    name: str
    type: int
    offset: int
    width: int


class Leaf(NamedTuple):
    """A piece of memory with one kind of content: an integer, a pointer, an array."""

    offset: int
    width: int
    content: Hashable


class TooComplex(Exception):
    """A type has more parts than can be compared."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of the types of one object; both methods raise TooComplex beyond their limits."""

    btf: Btf
    _fields: dict[int, tuple[Field, ...]] = field(default_factory=dict)

    def fields(self, one: Type) -> tuple[Field, ...]:
        """Return the members of a structure; those of a structure without a name inside it count as its own."""
        known = self._fields.get(one.number)
        if known is None:
            known = self._fields[one.number] = tuple(self._flat(one, 0, 0))
        return known

    def _flat(self, one: Type, start: int, depth: int) -> list[Field]:
        if depth > DEPTH_LIMIT:
            raise TooComplex
        found: list[Field] = []
        for member in one.members:
            inner = self.btf.plain(member.type) if not member.name else one
            if not member.name and inner.kind in COMPOSITES:
                found += self._flat(inner, start + member.offset, depth + 1)
            else:
                found.append(Field(member.name, member.type, start + member.offset, member.width))
            if len(found) > _LEAVES_LIMIT:
                raise TooComplex
        return found

    def leaves(self, number: int) -> frozenset[Leaf]:
        """Return the plain memory of a type: two types with the same leaves differ in names only."""
        found: list[Leaf] = []
        self._collect(number, 0, 0, found, 0)
        return frozenset(found)

    def _collect(self, number: int, start: int, width: int, found: list[Leaf], depth: int) -> None:
        if depth > DEPTH_LIMIT or len(found) > _LEAVES_LIMIT:
            raise TooComplex
        one = self.btf.plain(number)
        if one.kind in COMPOSITES:
            for member in one.members:
                self._collect(member.type, start + member.offset, member.width, found, depth + 1)
        elif one.kind is BtfKind.ARRAY:
            inner: list[Leaf] = []
            self._collect(one.target, 0, 0, inner, depth + 1)
            found.append(Leaf(start, 0, (one.length, self.btf.size_of(one.target), frozenset(inner))))
        elif one.kind is BtfKind.POINTER:
            found.append(Leaf(start, 64, declared(self.btf, self.btf.plain(one.target).number)))
        else:
            content = BtfKind.FLOAT if one.kind is BtfKind.FLOAT else BtfKind.INT
            found.append(Leaf(start, width or one.size * 8, content))
