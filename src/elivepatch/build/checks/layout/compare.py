# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparison of the types of two objects by their use: the same memory must have the same meaning.

Types are compared if old memory meets new code: structures with one tag, and each type that stands in the place of
another in a member, a variable or a parameter. A structure that is gone and one that is new are the same structure if
they are used in one place or have most members in common.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from elivepatch.build.checks.layout.shape import DEPTH_LIMIT, Field, Shapes, TooComplex
from elivepatch.build.checks.layout.words import declared
from elivepatch.kernel.btf import COMPOSITES, VOID, Btf, BtfKind, Type

_WITH_TAG = COMPOSITES | {BtfKind.FORWARD}
_ENUMS = frozenset({BtfKind.ENUM, BtfKind.ENUM64})
_INTEGERS = _ENUMS | {BtfKind.INT}
_PAIRS_LIMIT = 20_000
# Two structures with this share of their members in common are one structure under two names.
_ALIKE = 0.5
# Memory that lives as long as the kernel does, and that its code writes: that of the rest is in no running kernel, or
# create-diff-object compares its content.
_LIVE_SECTIONS = (".data", ".bss")
_NOT_LIVE_SECTIONS = (".data.rel.ro",)


class Difference(NamedTuple):
    """One difference of two types: at which member (empty for the type itself), and in which words.

    A `grave` one makes old memory unusable for new code. One that `follows` is only the consequence of another.
    """

    grave: bool
    at: str
    words: str
    follows: bool = False

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """Order in messages: causes first, and at the structure that has them itself."""
        return not self.grave, self.follows, "." in self.at

    def inside(self, name: str) -> Difference:
        """Return the difference as that of a structure whose member `name` differs."""
        return self._replace(at=f"{name}{'.' if self.at[:1] not in {'', '['} else ''}{self.at}")

    def __str__(self) -> str:
        return f"{self.at} {self.words}".lstrip()


class Change(NamedTuple):
    """A structure, variable or exported function that both objects have in another form.

    The names differ if a structure was renamed.
    """

    name: str
    new_name: str
    old: Type
    new: Type
    differences: tuple[Difference, ...]

    @property
    def grave(self) -> bool:
        """True if memory of the old type cannot be used by code that knows the new one."""
        return any(one.grave for one in self.differences)

    @property
    def cause(self) -> Difference:
        """The difference that a message names."""
        return min(self.differences, key=lambda one: one.rank)


_Differences = tuple[Difference, ...]
_COMPLEX = (Difference(True, "", "has more parts than can be compared"),)


def compare_types(old: Btf, new: Btf, exported: Collection[str] = ()) -> list[Change]:
    """Return the structures and variables of both objects that are not the same, grave causes first.

    Functions in `exported` that have another type, perhaps behind the same name of a type, are among them.
    """
    changes = _Comparison(old, new).changes(exported)
    return sorted(changes, key=lambda one: one.cause.rank)


class _Comparison:
    """State of one comparison: pairs of types that were compared, and structures that took another's place."""

    def __init__(self, old: Btf, new: Btf) -> None:
        self.old, self.new = old, new
        self._old_shapes, self._new_shapes = Shapes(old), Shapes(new)
        self._known: dict[tuple[int, int], _Differences] = {}
        self._renamed: dict[tuple[int, int], None] = {}
        self._depth = 0

    def changes(self, exported: Collection[str]) -> list[Change]:
        found = [*self._by_tag(), *self._by_typedef(), *self._by_variable(), *self._by_export(exported)]
        self._note_parameters()
        compared: set[tuple[int, int]] = set()
        while pending := [pair for pair in self._renamed if pair not in compared]:
            for pair in pending:
                compared.add(pair)
                found.append(self._renaming(*pair))
        found += self._by_likeness(compared)
        return found

    # The places at which old memory meets new code.

    def _by_tag(self) -> Iterable[Change]:
        for tag in sorted(self.old.by_tag.keys() & self.new.by_tag.keys()):
            yield from self._variants(tag, self.old.by_tag[tag], self.new.by_tag[tag])

    def _by_typedef(self) -> Iterable[Change]:
        """Compare the structures that have no tag but the name of a type."""
        names = self.old.named.keys() & self.new.named.keys()
        for name in sorted(name for kind, name in names if kind is BtfKind.TYPEDEF):
            olds, news = (
                [one for each in btf.named[BtfKind.TYPEDEF, name] if (one := btf.plain(each.number)).kind in COMPOSITES]
                for btf in (self.old, self.new)
            )
            if any(not one.name for one in (*olds, *news)):
                yield from self._variants(name, olds, news)

    def _variants(self, name: str, olds: Sequence[Type], news: Sequence[Type]) -> Iterable[Change]:
        # A name that only lost or only gained a variant is another structure of that name, not a changed one.
        if len(olds) * len(news) > _PAIRS_LIMIT:
            yield Change(_shown(olds[0], name), _shown(news[0], name), olds[0], news[0], _COMPLEX)
            return
        gone = [old for old in olds if all(self._composites(old, new) for new in news)]
        come = [new for new in news if all(self._composites(old, new) for old in olds)]
        if gone and come:
            pairs = [
                Change(_shown(old, name), _shown(new, name), old, new, self._composites(old, new))
                for old in gone
                for new in come
            ]
            yield min(pairs, key=lambda one: (one.grave, len(one.differences)))

    def _by_variable(self) -> Iterable[Change]:
        for kind, name in sorted(self.old.named.keys() & self.new.named.keys()):
            olds, news = self.old.named[kind, name], self.new.named[kind, name]
            if kind is not BtfKind.VARIABLE or len(olds) > 1 or len(news) > 1:
                continue
            if not _is_live(self.old, olds[0]) or not _is_live(self.new, news[0]):
                continue
            if self.old.size_of(olds[0].target) != self.new.size_of(news[0].target):
                continue  # create-diff-object refuses it with the variable's name.
            if differences := self._storage(olds[0].target, news[0].target):
                yield Change(f"the variable {name}", f"the variable {name}", olds[0], news[0], differences)

    def _by_export(self, exported: Collection[str]) -> Iterable[Change]:
        """Compare the types of functions that modules call, which were compiled for the old ones."""
        for name in sorted(exported):
            olds, news = (btf.named.get((BtfKind.FUNCTION, name), []) for btf in (self.old, self.new))
            if len(olds) == len(news) == 1:
                differences = self._prototypes(self.old.types[olds[0].target], self.new.types[news[0].target])
                if any(one.grave for one in differences):
                    yield Change(name, name, olds[0], news[0], differences)

    def _note_parameters(self) -> None:
        """Find structures that took another's place in the parameters of a function.

        The prototype of a function may change, because all its callers are compiled with it.
        """
        for kind, name in sorted(self.old.named.keys() & self.new.named.keys()):
            if kind is not BtfKind.FUNCTION:
                continue
            before = set(self._renamed)
            for old, new in zip(self.old.named[kind, name], self.new.named[kind, name], strict=False):
                parameters = self.old.types[old.target].members, self.new.types[new.target].members
                for mine, other in zip(*parameters, strict=False):
                    self._storage(mine.type, other.type)
            for pair in set(self._renamed) - before:
                ours = _content_of(self._old_shapes, self.old.types[pair[0]])
                theirs = _content_of(self._new_shapes, self.new.types[pair[1]])
                if not _likeness(ours, theirs):
                    del self._renamed[pair]

    def _renaming(self, old_number: int, new_number: int) -> Change:
        old, new = self.old.types[old_number], self.new.types[new_number]
        named = Difference(False, "", f"is now called {_shown(new)}")
        return Change(_shown(old), _shown(new), old, new, (named, *self._composites(old, new)))

    def _by_likeness(self, compared: set[tuple[int, int]]) -> Iterable[Change]:
        """Compare each structure that is gone with the new one that has most in common with it."""
        gone = self._alone(self.old, self.new, {pair[0] for pair in compared}, {pair[0] for pair in self._known})
        come = self._alone(self.new, self.old, {pair[1] for pair in compared}, {pair[1] for pair in self._known})
        if len(gone) * len(come) > _PAIRS_LIMIT:
            yield Change(_shown(gone[0]), _shown(come[0]), gone[0], come[0], _COMPLEX)
            return
        ours = {one.number: _content_of(self._old_shapes, one) for one in gone}
        theirs = {one.number: _content_of(self._new_shapes, one) for one in come}
        for old in gone:
            likely = {new.number: _likeness(ours[old.number], theirs[new.number]) for new in come
                      if bool(old.name) == bool(new.name)}  # fmt: skip
            likest = max(likely, key=lambda number: likely[number], default=0)
            if likest and likely[likest] >= _ALIKE:
                change = self._renaming(old.number, likest)
                # Structures without a name come and go with the functions that use them.
                if old.name or change.grave:
                    yield change

    def _alone(self, mine: Btf, other: Btf, paired: set[int], known: set[int]) -> list[Type]:
        """Return the structures of one object that the other has nothing to compare with."""
        inner = {mine.element(member.type).number for one in mine.types for member in one.members}
        return [
            one
            for one in mine.types
            if one.kind in COMPOSITES
            and one.number not in paired
            and (one.name not in other.tags if one.name else one.number not in known | inner)
        ]

    # The comparison itself.

    def _composites(self, old: Type, new: Type) -> _Differences:
        """Return the differences of two structures or unions."""
        pair = old.number, new.number
        if pair in self._known:
            return self._known[pair]
        # A structure that holds itself is the same if the rest is.
        self._known[pair] = ()
        if self._depth > DEPTH_LIMIT:
            return _COMPLEX
        self._depth += 1
        try:
            self._known[pair] = tuple(self._members(old, new))
        except TooComplex:
            self._known[pair] = _COMPLEX
        finally:
            self._depth -= 1
        return self._known[pair]

    def _members(self, old: Type, new: Type) -> Iterable[Difference]:
        if old.size != new.size:
            yield Difference(True, "", f"has {new.size} bytes instead of {old.size}", follows=True)
        ours = {one.name or f"#{n}": one for n, one in enumerate(self._old_shapes.fields(old))}
        theirs = {one.name or f"#{n}": one for n, one in enumerate(self._new_shapes.fields(new))}
        for name, one in ours.items():
            if name in theirs:
                yield from self._same_name(one, theirs[name])
        gone = [one for name, one in ours.items() if name not in theirs]
        come = [one for name, one in theirs.items() if name not in ours]
        for one in come:
            other = next((each for each in gone if each[2:] == one[2:] and not self._is_grave(each, one)), None)
            if other is not None:
                gone.remove(other)
                yield Difference(False, other.name, f"is now called {one.name}")
                yield from (each.inside(one.name) for each in self._content(other, one))
            elif not self._is_view(self._new_shapes, one, self._old_shapes.leaves(old.number)):
                yield Difference(True, one.name, f"is new at {_place(one)}")
        for one in gone:
            if not self._is_view(self._old_shapes, one, self._new_shapes.leaves(new.number)):
                yield Difference(True, one.name, "is gone")

    def _same_name(self, old: Field, new: Field) -> Iterable[Difference]:
        if (old.offset, old.width) != (new.offset, new.width):
            follows = old.width == new.width
            yield Difference(True, old.name, f"is at {_place(new)} instead of {_place(old)}", follows=follows)
        yield from (one.inside(old.name) for one in self._content(old, new))

    def _is_grave(self, old: Field, new: Field) -> bool:
        return any(one.grave for one in self._content(old, new))

    def _content(self, old: Field, new: Field) -> _Differences:
        if not old.width:
            return self._storage(old.type, new.type)
        # The bits of a bit-field are its place; the type that it is declared with only gives it a sign.
        kinds = self.old.plain(old.type), self.new.plain(new.type)
        same = self._says_the_same(*kinds, old.type, new.type)
        return () if same else self._retyped(old.type, new.type, grave=False)

    def _is_view(self, shapes: Shapes, one: Field, memory: frozenset[object]) -> bool:
        """Return if a member is another name of memory that the other structure has with the same content."""
        leaves = shapes.leaves(one.type)
        moved = {leaf._replace(offset=leaf.offset + one.offset, width=one.width or leaf.width) for leaf in leaves}
        return moved <= memory

    def _storage(self, old_number: int, new_number: int) -> _Differences:
        """Return the differences of what two types say about the same piece of memory."""
        old, new = self.old.plain(old_number), self.new.plain(new_number)
        if old.kind in COMPOSITES and new.kind in COMPOSITES and bool(old.name) == bool(new.name):
            return self._identity(old, new) if old.name else self._composites(old, new)
        if old.kind is BtfKind.ARRAY and new.kind is BtfKind.ARRAY and old.length == new.length:
            found = self._pair(old.target, new.target, self._storage)
            if any(one.at for one in found):
                return tuple(one.inside("[]") for one in found)
            return found and self._retyped(old_number, new_number, grave=any(one.grave for one in found))
        if old.kind is BtfKind.POINTER and new.kind is BtfKind.POINTER:
            found = self._pair(old.target, new.target, self._pointed)
            return found and self._retyped(old_number, new_number, grave=any(one.grave for one in found))
        if old.kind in _INTEGERS and new.kind in _INTEGERS and old.size == new.size:
            same = self._says_the_same(old, new, old_number, new_number)
            return () if same else self._retyped(old_number, new_number, grave=False)
        if (old.kind, old.size) == (new.kind, new.size) and old.kind in {BtfKind.FLOAT, BtfKind.VOID}:
            return ()
        return self._retyped(old_number, new_number, grave=not self._same_leaves(old_number, new_number))

    def _same_leaves(self, old_number: int, new_number: int) -> bool:
        try:
            return self._old_shapes.leaves(old_number) == self._new_shapes.leaves(new_number)
        except TooComplex:
            return False

    def _says_the_same(self, old: Type, new: Type, old_number: int, new_number: int) -> bool:
        if old.encoding != new.encoding or (old.kind in _ENUMS) != (new.kind in _ENUMS):
            return False
        return declared(self.old, old_number) == declared(self.new, new_number)

    def _retyped(self, old_number: int, new_number: int, *, grave: bool) -> _Differences:
        before, after = declared(self.old, old_number), declared(self.new, new_number)
        return (Difference(grave, "", f"has the type `{after}` instead of `{before}`"),)

    def _pair(self, old: int, new: int, compare: Callable[[int, int], _Differences]) -> _Differences:
        """Compare the types that an array or a pointer is made of, `_GRAVE` if they are nested beyond the limit."""
        if self._depth > DEPTH_LIMIT:
            return _GRAVE
        self._depth += 1
        try:
            return compare(old, new)
        finally:
            self._depth -= 1

    def _pointed(self, old_number: int, new_number: int) -> _Differences:
        """Return the differences of two pointers by what they lead to; `_GRAVE` if it is something else."""
        old, new = self.old.plain(old_number), self.new.plain(new_number)
        if VOID.kind in {old.kind, new.kind}:
            return () if old.kind is new.kind else self._retyped(old_number, new_number, grave=False)
        if old.kind in _WITH_TAG and new.kind in _WITH_TAG:
            return self._targets(old, new)
        if old.kind is BtfKind.PROTOTYPE and new.kind is BtfKind.PROTOTYPE:
            return self._prototypes(old, new)
        found = self._storage(old_number, new_number)
        return _GRAVE if any(one.grave for one in found) else found

    def _targets(self, old: Type, new: Type) -> _Differences:
        """Compare two structures that pointers in the same place lead to."""
        if bool(old.name) == bool(new.name):
            found = self._identity(old, new) if old.name else self._composites(old, new)
            # A structure of the same shape is still another object: code finds others around it.
            return _GRAVE if any(one.grave for one in found) or (found and old.name) else ()
        return () if self._same_leaves(old.number, new.number) else _GRAVE

    def _identity(self, old: Type, new: Type) -> _Differences:
        """Compare two structures with tags by these; what they hold is compared on its own."""
        if old.name == new.name:
            return ()
        both = old.kind in COMPOSITES and new.kind in COMPOSITES
        if both and old.name not in self.new.tags and new.name not in self.old.tags:
            self._renamed[old.number, new.number] = None
            return ()
        grave = not both or not self._same_leaves(old.number, new.number)
        return (Difference(grave, "", f"is of {_shown(new)} instead of {_shown(old)}"),)

    def _prototypes(self, old: Type, new: Type) -> _Differences:
        """Compare two types of functions: a pointer of old memory leads to a function that expects the old one."""
        if len(old.members) != len(new.members):
            return _GRAVE
        pairs = [(old.target, new.target), *((a.type, b.type) for a, b in zip(old.members, new.members, strict=True))]
        found = [one for pair in pairs for one in self._storage(*pair)]
        return _GRAVE if any(one.grave for one in found) else tuple(found[:1])


def _content_of(shapes: Shapes, one: Type) -> frozenset[str] | None:
    """Return the declarations of a structure's members, None if it has too many parts."""
    try:
        fields = shapes.fields(one)
    except TooComplex:
        return None
    # The own name is the same in both: it is what changed.
    return frozenset(f"{declared(shapes.btf, each.type)} ".replace(f" {one.name} ", " ") + each.name for each in fields)


def _likeness(ours: frozenset[str] | None, theirs: frozenset[str] | None) -> float:
    """Return the share of members that both have: 1.0 if all have the same name and type."""
    if ours is None or theirs is None:
        return 1.0
    return len(ours & theirs) / max(len(ours), len(theirs), 1)


_GRAVE = (Difference(True, "", "points at something else"),)


def _is_live(btf: Btf, variable: Type) -> bool:
    section = btf.sections.get(variable.number, "")
    return section.startswith(_LIVE_SECTIONS) and not section.startswith(_NOT_LIVE_SECTIONS)


def _place(one: Field) -> str:
    return f"bit {one.offset} ({one.width} wide)" if one.width else f"byte {one.offset // 8}"


def _shown(one: Type, name: str = "") -> str:
    if not one.name:
        return name or "a structure without a name"
    return f"{'union' if one.kind is BtfKind.UNION else 'struct'} {one.name}"
