# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparison of two objects by what code and data mean at run time.

create-diff-object compares references by name. Here, a reference to the compiler's own data (tables of a `switch`,
strings, constants, `__func__`) is compared by the content of what it leads to. A reference to a function or variable
of the kernel is compared by which one it is.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from elivepatch.build.account.image import NAMELESS, OPERAND_BYTES, Image, Key, Piece, Place
from elivepatch.build.account.names import DESCRIPTORS, OUT_OF_LINE, is_constant, is_state, plain
from elivepatch.kernel.elf import BIND_LOCAL, TYPE_OBJECT, Relocation, Section
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped

_STRING_LIMIT = 1 << 20
# A comparison of the largest object of a kernel takes about two million; hostile objects could be made to take more.
_BUDGET = 50_000_000

# struct _ddebug has its line in the low 18 bits of the word after four pointers (include/linux/dynamic_debug.h),
# struct pi_entry after three pointers (include/linux/printk.h).
_DESCRIPTOR_LINE, _DESCRIPTOR_MASK = 32, (1 << 18) - 1
_PRINTK_LINE = 24

# Opcodes that load an immediate operand of four bytes into esi or edx, and what is then called with a line number.
_LOADS_LINE = (0xBE, 0xBA)
_TAKES_LINE = ("warn_slowpath_", "__might_sleep", "___might_sleep", "__might_fault", "lockdep_rcu_suspicious",
               "__might_resched")  # fmt: skip


class Span(NamedTuple):
    """Bytes of one section."""

    section: Section
    start: int
    end: int


class StateChange(NamedTuple):
    """A macro's static variable whose initial value differs, as one function uses it."""

    user: str
    old: Piece
    new: Piece


class Comparison:
    """Comparison of the images `before` and `after` of one object."""

    def __init__(self, before: Image, after: Image) -> None:
        self.before, self.after = before, after
        self.states: list[StateChange] = []
        self.lines: list[str] = []
        self._same: set[tuple[Span, Span]] = set()
        self._spent = 0
        self._user = ""

    @cached_property
    def twins(self) -> dict[Key, Key]:
        """The static variable of the patched object for each one of the original, by what uses it.

        Those that nothing with another name uses are taken in their order.
        """
        found: dict[Key, Key] = {}
        left = {key: one for (code, key), one in self.after.pieces.items() if not code and is_static_local(one)}
        pairs = deque((old, new) for kind, old in self.before.pieces.items() if not is_static_local(old)
                      and (new := self.after.pieces.get(kind)) is not None and not is_static_local(new))  # fmt: skip
        while pairs:
            for one, other in self._users_agree(*pairs.popleft(), found, left):
                found[one.key] = other.key
                del left[other.key]
                pairs.append((one, other))
        unused = defaultdict[str, deque[Key]](deque)
        for key in left:
            unused[key[0]].append(key)
        for (code, key), old in self.before.pieces.items():
            if not code and key not in found and is_static_local(old) and unused[key[0]]:
                found[key] = unused[key[0]].popleft()
        return found

    def _users_agree(
        self, old: Piece, new: Piece, found: Mapping[Key, Key], left: Mapping[Key, Piece]
    ) -> list[tuple[Piece, Piece]]:
        """Return the static variables, new in `found`, that two pieces use in the same order."""
        theirs = defaultdict[str, deque[Piece]](deque)
        for other in dict.fromkeys(self._statics(self.after, new)):
            if other.key in left:
                theirs[other.key[0]].append(other)
        ours = [one for one in dict.fromkeys(self._statics(self.before, old)) if one.key not in found]
        return [(one, theirs[one.key[0]].popleft()) for one in ours if theirs[one.key[0]]]

    def _statics(self, image: Image, piece: Piece) -> Iterator[Piece]:
        for entry in image.relocations(piece.section, piece.start, piece.end):
            place = image.place(entry, in_code=piece.section.executable)
            for one in image.at(place.section, place.position):
                if is_static_local(one) and one.key != piece.key:
                    yield one

    def twin(self, old: Piece) -> Piece | None:
        """Return the piece of the patched object that is the same function or variable as `old`."""
        key = self.twins.get(old.key) if is_static_local(old) else old.key
        return None if key is None else self.after.pieces.get((old.is_code, key))

    def code_differs(self, old: Piece, new: Piece) -> str:
        """Return in a few words the first thing by which two functions differ, empty if they do the same."""
        self._user = new.name
        if plain(old.section.name) != plain(new.section.name):
            return "lies in another section"
        one, other = (Span(piece.section, piece.start, piece.end) for piece in (old, new))
        if found := self._spans_differ(one, other):
            return found
        return self._entries_differ(old.key, new.key)

    def nameless_differ(self) -> str:
        """Return the first table whose entries for code without a name differ, empty if none."""
        self._user = "code without a name"
        return self._entries_differ(NAMELESS, NAMELESS)

    def data_differs(self, old: Piece, new: Piece) -> str:
        """Return in a few words the first thing by which two variables differ at the start, empty if none."""
        self._user = new.name
        if plain(old.section.name) != plain(new.section.name) and not is_static_local(old):
            return "lies in another section"
        one, other = (Span(piece.section, piece.start, piece.end) for piece in (old, new))
        return self._spans_differ(one, other)

    def sections_differ(self, old: Section, new: Section) -> str:
        """Return in a few words the first thing by which two sections differ, empty if none."""
        self._user = new.name
        return self._spans_differ(Span(old, 0, old.size), Span(new, 0, new.size))

    def _entries_differ(self, old: Key, new: Key) -> str:
        one, other = self.before.entries.get(old, []), self.after.entries.get(new, [])
        if [entry[:2] for entry in one] != [entry[:2] for entry in other]:
            names = sorted({entry[0] for entry in one} ^ {entry[0] for entry in other}) or [one[0][0] if one else ""]
            return f"other places in {names[0]}"
        for (table, _, first), (_, _, second) in zip(one, other, strict=True):
            if self._spans_differ(Span(*first), Span(*second)):
                return f"another entry in {table}"
        return ""

    def _spans_differ(self, old: Span, new: Span) -> str:
        """Return by what two spans differ: their bytes, their references, or what these lead to."""
        if (old, new) in self._same:
            return ""
        waiting, seen = [(old, new)], {(old, new)}
        while waiting:
            one, other = waiting.pop()
            if not self._same_bytes(one, other):
                return "other bytes" if (one, other) == (old, new) else f"other content of {one.section.name}"
            for first, second in self._references(one, other):
                if first is None or second is None:
                    return "other references"
                pairs = self._led_to(first, second)
                if pairs is None:
                    return f"a reference to {self._shown(self.after, second)}"
                for pair in pairs:
                    if pair not in seen and pair not in self._same:
                        seen.add(pair)
                        waiting.append(pair)
        self._same |= seen
        return ""

    def _spend(self, units: int) -> None:
        self._spent += units + 1
        if self._spent > _BUDGET:
            raise BuildStopped(problem("out-of-time", "Comparing the two objects took too long."))

    def _same_bytes(self, old: Span, new: Span) -> bool:
        if old.end - old.start != new.end - new.start:
            return False
        one, other = self.before.content(*old), self.after.content(*new)
        self._spend(len(one) >> 4)
        if one == other:
            return True
        if old.section.executable:
            same = self._only_lines(new, one, other)
        else:
            same = without_line(old.section, one, self.before) == without_line(new.section, other, self.after)
        if same:
            self.lines.append(self._user)
        return same

    def _only_lines(self, new: Span, one: bytes, other: bytes) -> bool:
        """Return if code differs only in line numbers that it hands to a function for a message."""
        places = [at for at in range(len(one)) if one[at] != other[at]]
        entries = self.after.relocations(*new)
        done = 0
        for at in places:
            if at < done:
                continue
            start = next((at - back for back in range(4) if at - back > 0 and one[at - back - 1] in _LOADS_LINE), 0)
            if not start or one[start - 1] != other[start - 1] or not self._line_is_taken(new, entries, start + 4):
                return False
            done = start + 4
        return True

    def _line_is_taken(self, span: Span, entries: list[Relocation], after: int) -> bool:
        self._spend(len(entries))
        for entry in entries:
            if entry.offset - span.start < after:
                continue
            place = self.after.place(entry, in_code=True)
            if place.section and (
                self.after.elf.sections[place.section].strings
                or any(is_state(one.name, one.section.name) for one in self.after.at(place.section, place.position))
            ):
                continue
            return place.name.startswith(_TAKES_LINE)
        return False

    def _references(self, old: Span, new: Span) -> Iterator[tuple[Place | None, Place | None]]:
        """Yield the targets of two spans in pairs; None if the references themselves do not match."""
        one, other = self.before.relocations(*old), self.after.relocations(*new)
        self._spend(len(one))
        if len(one) != len(other):
            yield None, None
            return
        in_code = old.section.executable
        for first, second in zip(one, other, strict=True):
            if first.offset - old.start != second.offset - new.start or first.kind != second.kind:
                yield None, None
                return
            yield self.before.place(first, in_code=in_code), self.after.place(second, in_code=in_code)

    def _led_to(self, old: Place, new: Place) -> list[tuple[Span, Span]] | None:
        """Return the spans that must be equal for two references to mean the same, None if they never do."""
        if not old.section or not new.section:
            return [] if (old.section, old.name, old.position) == (new.section, new.name, new.position) else None
        section, other = self.before.elf.sections[old.section], self.after.elf.sections[new.section]
        if section.merged or other.merged:
            if (section.flags, section.unit) != (other.flags, other.unit):
                return None
            return list(self._merged(old, new, section, other))
        shifts = (0, OPERAND_BYTES) if old.relative and self._crowded(old) else (0,)
        pairs: list[tuple[Span, Span]] = []
        for shift in shifts:
            found = self._named(
                old._replace(position=old.position + shift), new._replace(position=new.position + shift)
            )
            if found is None:
                return None
            pairs += found
        return pairs

    def _crowded(self, place: Place) -> bool:
        """Return if the operand of an instruction can hide which of two neighbours it refers to."""
        near = self.before.at(place.section, place.position)
        return near != self.before.at(place.section, place.position + OPERAND_BYTES)

    def _merged(self, old: Place, new: Place, section: Section, other: Section) -> Iterator[tuple[Span, Span]]:
        if section.strings and section.unit == 1:
            yield self._string(self.before, section, old.position), self._string(self.after, other, new.position)
            return
        unit = max(section.unit, 1)
        for shift in (0, OPERAND_BYTES) if old.relative else (0,):
            first, second = ((place.position + shift) // unit * unit for place in (old, new))
            yield Span(section, first, first + unit), Span(other, second, second + unit)

    @staticmethod
    def _string(image: Image, section: Section, start: int) -> Span:
        text = image.content(section, start, start + _STRING_LIMIT)
        end = text.find(b"\0")
        return Span(section, start, start + (len(text) if end < 0 else end + 1))

    def _named(self, old: Place, new: Place) -> list[tuple[Span, Span]] | None:
        ours, theirs = self.before.at(old.section, old.position), self.after.at(new.section, new.position)
        if not ours and not theirs:
            return self._unnamed(old, new)
        if not ours or not theirs:
            return None
        one, other = ours[0], theirs[0]
        same_place = one.key[0] == other.key[0] and old.position - one.start == new.position - other.start
        if is_constant(one.name, one.section.name) or is_constant(other.name, other.section.name):
            pair = Span(one.section, one.start, one.end), Span(other.section, other.start, other.end)
            return [pair] if same_place else None
        if is_state(one.name, one.section.name) or is_state(other.name, other.section.name):
            if same_place:
                self._compare_states(one, other)
            return [] if same_place else None
        identities = {(twin.is_code, twin.key, old.position - piece.start) for piece in ours
                      if (twin := self.twin(piece)) is not None}  # fmt: skip
        return [] if identities & {(one.is_code, one.key, new.position - one.start) for one in theirs} else None

    def _compare_states(self, old: Piece, new: Piece) -> None:
        one, other = (image.content(piece.section, piece.start, piece.end)
                      for image, piece in ((self.before, old), (self.after, new)))  # fmt: skip
        if one != other or old.end - old.start != new.end - new.start:
            self.states.append(StateChange(self._user, old, new))

    def _unnamed(self, old: Place, new: Place) -> list[tuple[Span, Span]] | None:
        section, other = self.before.elf.sections[old.section], self.after.elf.sections[new.section]
        if plain(section.name) != plain(other.name):
            return None
        if section.writable and section.name not in OUT_OF_LINE and old.position != new.position:
            return None
        if not section.writable and section.name not in OUT_OF_LINE:
            # A table whose first index is not zero is referred to from before its start: it could be any.
            whole = Span(section, 0, section.size), Span(other, 0, other.size)
            return [whole] if old.position == new.position else None
        first = Span(section, old.position, self.before.chunk_end(old.section, old.position))
        second = Span(other, new.position, self.after.chunk_end(new.section, new.position))
        return [(first, second)]

    @staticmethod
    def _shown(image: Image, place: Place) -> str:
        if not place.section:
            return place.name
        names = [one.name for one in image.at(place.section, place.position)]
        return names[0] if names else image.elf.sections[place.section].name


def is_static_local(piece: Piece) -> bool:
    """Return if a piece is an ordinary static variable of a function: the compiler put a number behind its name."""
    symbol = piece.symbol
    ordinary = symbol.kind == TYPE_OBJECT and symbol.bind == BIND_LOCAL and "." in symbol.name
    special = is_constant(symbol.name, piece.section.name) or is_state(symbol.name, piece.section.name)
    return ordinary and not special and not symbol.name.startswith(".L")


def without_line(section: Section, content: bytes, image: Image) -> bytes:
    """Return the bytes of an entry or descriptor without the line number of the source in it."""
    if section.name == "__bug_table":
        at = image.sizes.get("BUG_STRUCT_SIZE", 0) - 4
        return content[:at] + content[at + 2 :] if 0 < at < len(content) else content
    if section.name in DESCRIPTORS and len(content) >= _DESCRIPTOR_LINE + 4:
        word = int.from_bytes(content[_DESCRIPTOR_LINE : _DESCRIPTOR_LINE + 4], "little") & ~_DESCRIPTOR_MASK
        return content[:_DESCRIPTOR_LINE] + word.to_bytes(4, "little") + content[_DESCRIPTOR_LINE + 4 :]
    if section.name.startswith(".rodata._entry.") and len(content) >= _PRINTK_LINE + 4:
        return content[:_PRINTK_LINE] + content[_PRINTK_LINE + 4 :]
    return content
