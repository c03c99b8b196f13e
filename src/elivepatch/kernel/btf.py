# SPDX-License-Identifier: GPL-2.0-or-later
"""Reader of BTF, the compact form of a C program's types.

pahole writes the types in an object's debug information as BTF in a tenth of the time that its listing takes, and BTF
has what the listing lacks: enumerators, prototypes, variables. Format: the kernel's Documentation/bpf/btf.rst.

The types come from a patch, so every number is checked before it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from elivepatch.model.errors import EnvironmentFault

_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_TYPE = struct.Struct("<III")  # name_off, info, size or type
_ARRAY = struct.Struct("<III")  # type, index_type, nelems
_MEMBER = struct.Struct("<III")  # name_off, type, offset
_ENUM, _ENUM_SIGNED = struct.Struct("<II"), struct.Struct("<Ii")
_ENUM64 = struct.Struct("<III")  # name_off, val_lo32, val_hi32
_PARAMETER = struct.Struct("<II")  # name_off, type
_IN_SECTION = struct.Struct("<III")  # type, offset, size
_WORD = struct.Struct("<I")
_MAGIC = 0xEB9F
_QUALIFIED_LIMIT = 256


class BtfKind(IntEnum):
    """Kinds of types; the numbers are those of the format (BTF_KIND_*)."""

    VOID = 0
    INT = 1
    POINTER = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FORWARD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNCTION = 12
    PROTOTYPE = 13
    VARIABLE = 14
    SECTION = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


QUALIFIERS = frozenset({BtfKind.VOLATILE, BtfKind.CONST, BtfKind.RESTRICT, BtfKind.TYPE_TAG})
"""Kinds that change nothing about what memory of the type they refer to holds."""
COMPOSITES = frozenset({BtfKind.STRUCT, BtfKind.UNION})
"""Kinds with members at places."""
_SIZED = COMPOSITES | {BtfKind.INT, BtfKind.ENUM, BtfKind.ENUM64, BtfKind.FLOAT, BtfKind.SECTION}
SIGNED, CHARACTER, BOOLEAN = 1, 2, 4
"""Bits of an integer's encoding."""


class Member(NamedTuple):
    """A member of a structure, with its place in bits; `width` is 0 unless it is a bit-field.

    A parameter of a prototype too: it has no place, and a last one of type 0 without a name stands for `...`.
    """

    name: str
    type: int
    offset: int = 0
    width: int = 0


class Type(NamedTuple):
    """One type: `size` in bytes where the kind has one, else `target` is the number of the type it refers to.

    `members` are those of a structure or the parameters of a prototype, `enumerators` have their values, `length` is
    that of an array, `encoding` the bits of an integer.
    """

    number: int
    kind: BtfKind
    name: str
    size: int = 0
    target: int = 0
    members: tuple[Member, ...] = ()
    enumerators: tuple[tuple[str, int], ...] = ()
    length: int = 0
    encoding: int = 0


VOID = Type(0, BtfKind.VOID, "void")


@dataclass(frozen=True)
class Btf:
    """All types of one object. `types[n]` is the type with the number n; number 0 is `void`.

    `sections` maps the number of a variable's type to the name of its section.
    """

    types: tuple[Type, ...]
    sections: dict[int, str]

    def plain(self, number: int) -> Type:
        """Return the type behind qualifiers and typedefs. Raises EnvironmentFault if they have no end."""
        return self._behind(number, QUALIFIERS | {BtfKind.TYPEDEF})

    def unqualified(self, number: int) -> Type:
        """Return the type behind qualifiers, perhaps a typedef. Raises EnvironmentFault if they have no end."""
        return self._behind(number, QUALIFIERS)

    def _behind(self, number: int, kinds: frozenset[BtfKind]) -> Type:
        for _ in range(_QUALIFIED_LIMIT):
            found = self.types[number]
            if found.kind not in kinds:
                return found
            number = found.target
        raise _malformed("has a type that refers to itself")

    @cached_property
    def by_tag(self) -> dict[str, list[Type]]:
        """The structures and unions with members by their tag; a tag may stand for several."""
        found: dict[str, list[Type]] = {}
        for one in self.types:
            if one.kind in COMPOSITES and one.name:
                found.setdefault(one.name, []).append(one)
        return found

    @cached_property
    def tags(self) -> frozenset[str]:
        """The tags of all structures and unions, also of those that are only declared."""
        return frozenset(self.by_tag) | {one.name for one in self.types if one.kind is BtfKind.FORWARD}

    @cached_property
    def named(self) -> dict[tuple[BtfKind, str], list[Type]]:
        """The typedefs, functions and variables by kind and name."""
        found: dict[tuple[BtfKind, str], list[Type]] = {}
        for one in self.types:
            if one.kind in {BtfKind.TYPEDEF, BtfKind.FUNCTION, BtfKind.VARIABLE}:
                found.setdefault((one.kind, one.name), []).append(one)
        return found

    def element(self, number: int) -> Type:
        """Return the plain type of an array's elements, or of what is no array."""
        return self._elements(number)[0]

    def size_of(self, number: int) -> int:
        """Return the size in bytes of an object of the type, 0 if it has none."""
        found, count = self._elements(number)
        return count * (8 if found.kind is BtfKind.POINTER else found.size)

    def _elements(self, number: int) -> tuple[Type, int]:
        count = 1
        for _ in range(_QUALIFIED_LIMIT):
            found = self.plain(number)
            if found.kind is not BtfKind.ARRAY:
                return found, count
            count *= found.length
            number = found.target
        raise _malformed("has an array without an end")


def read_btf(content: bytes) -> Btf:
    """Return the types in `content`. Raises EnvironmentFault with the code `elf-malformed` if it is damaged."""
    try:
        magic, version, _flags, length, types_at, types_size, names_at, names_size = _HEADER.unpack_from(content)
        if magic != _MAGIC or version != 1:
            raise _malformed("does not start as BTF does")
        types = content[length + types_at : length + types_at + types_size]
        names = content[length + names_at : length + names_at + names_size]
        return _Reader(types, names).read()
    except (struct.error, IndexError, ValueError) as error:
        raise _malformed("is truncated or has an unknown type") from error


class _Reader:
    """One pass over the types."""

    def __init__(self, content: bytes, names: bytes) -> None:
        self._content = content
        self._texts = names
        self._known: dict[int, str] = {}
        self._at = 0
        self._sections: dict[int, str] = {}

    def read(self) -> Btf:
        found = [VOID]
        while self._at < len(self._content):
            name, info, rest = _TYPE.unpack_from(self._content, self._at)
            self._at += _TYPE.size
            kind, count, flag = BtfKind((info >> 24) & 0x1F), info & 0xFFFF, bool(info >> 31)
            found.append(self._type(Type(len(found), kind, self._name(name)), count, flag, rest))
        for one in found:
            if max((one.target, *(member.type for member in one.members))) >= len(found):
                raise _malformed("has a type that refers to none")
        return Btf(tuple(found), self._sections)

    def _name(self, offset: int) -> str:
        known = self._known.get(offset)
        if known is None:
            known = self._texts[offset : self._texts.index(b"\0", offset)].decode(errors="replace")
            self._known[offset] = known
        return known

    def _entries(self, shape: struct.Struct, count: int) -> list[tuple[int, ...]]:
        end = self._at + shape.size * count
        if end > len(self._content):
            raise _malformed("is truncated")
        start, self._at = self._at, end
        return list(shape.iter_unpack(self._content[start:end]))

    def _type(self, head: Type, count: int, flag: bool, rest: int) -> Type:
        """Return a type with what follows its head; `rest` is its size or the number of the type it refers to."""
        kind = head.kind
        head = head._replace(size=rest) if kind in _SIZED else head._replace(target=rest)
        if kind is BtfKind.INT:
            ((word,),) = self._entries(_WORD, 1)
            return head._replace(encoding=word >> 24 & 0xF)
        if kind is BtfKind.ARRAY:
            ((target, _index, length),) = self._entries(_ARRAY, 1)
            return head._replace(target=target, length=length)
        if kind in COMPOSITES:
            return head._replace(members=self._members(count, flag))
        if kind is BtfKind.PROTOTYPE:
            parameters = self._entries(_PARAMETER, count)
            return head._replace(members=tuple(Member(self._name(name), target) for name, target in parameters))
        if kind in {BtfKind.ENUM, BtfKind.ENUM64}:
            return head._replace(enumerators=self._enumerators(kind, count, flag))
        if kind is BtfKind.SECTION:
            for target, _offset, _size in self._entries(_IN_SECTION, count):
                self._sections[target] = head.name
        elif kind in {BtfKind.VARIABLE, BtfKind.DECL_TAG}:
            self._entries(_WORD, 1)
        elif kind is BtfKind.FORWARD:
            return head._replace(target=0)
        return head

    def _members(self, count: int, flag: bool) -> tuple[Member, ...]:
        entries = self._entries(_MEMBER, count)
        if not flag:
            return tuple(Member(self._name(name), target, offset) for name, target, offset in entries)
        return tuple(
            Member(self._name(name), target, offset & 0xFFFFFF, offset >> 24) for name, target, offset in entries
        )

    def _enumerators(self, kind: BtfKind, count: int, signed: bool) -> tuple[tuple[str, int], ...]:
        if kind is BtfKind.ENUM:
            entries = self._entries(_ENUM_SIGNED if signed else _ENUM, count)
            return tuple((self._name(name), value) for name, value in entries)
        wide = ((self._name(name), high << 32 | low) for name, low, high in self._entries(_ENUM64, count))
        return tuple((name, value - (1 << 64) if signed and value >> 63 else value) for name, value in wide)


def _malformed(what: str) -> EnvironmentFault:
    return EnvironmentFault(
        "elf-malformed",
        f"The list of an object's types {what}.",
        advice="The file is damaged or another tool made it; make it again.",
    )
