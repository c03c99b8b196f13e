# SPDX-License-Identifier: GPL-2.0-or-later
"""Account of two objects: which functions must be replaced, which other differences there are, and what each means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from elivepatch.build.account.compare import Comparison, StateChange
from elivepatch.build.account.image import Image, Key, Piece
from elivepatch.build.account.names import (
    OUT_OF_LINE,
    TABLES,
    is_cold,
    is_constant,
    is_derived,
    is_left_out,
    is_state,
    plain,
    runs_once,
)
from elivepatch.kernel.elf import ElfFile, Section


class DataChange(NamedTuple):
    """A variable, table or section that differs. `old` or `new` is None if only the other object has it."""

    name: str
    section: Section
    old: Piece | None
    new: Piece | None
    why: str


@dataclass
class Account:
    """Differences between two images. `replaced` are the functions that must be replaced, with the reason."""

    before: Image
    after: Image
    replaced: dict[Key, str] = field(default_factory=dict)
    added: list[Piece] = field(default_factory=list)
    removed: list[Piece] = field(default_factory=list)
    data: list[DataChange] = field(default_factory=list)
    states: list[StateChange] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """True if nothing differs in what is used at run time."""
        return not (self.replaced or self.added or self.data or self.states)

    def functions(self) -> Iterator[tuple[Piece, Piece]]:
        """Yield the functions that must be replaced, in the original and in the patched object."""
        for key in self.replaced:
            old, new = self.before.pieces.get((True, key)), self.after.pieces.get((True, key))
            if old is not None and new is not None:
                yield old, new


def take_account(original: Path, patched: Path, sizes: Mapping[str, int]) -> Account:
    """Return the account of two objects; `sizes` are those of the base's tables in the kernel.

    Raises EnvironmentFault if an object is damaged, BuildStopped with `out-of-time` if comparing them would not end.
    """
    before, after = Image(ElfFile(original), sizes), Image(ElfFile(patched), sizes)
    return _Accountant(before, after).account()


class _Accountant:
    def __init__(self, before: Image, after: Image) -> None:
        self.comparison = Comparison(before, after)
        self.found = Account(before, after)

    def account(self) -> Account:
        found = self.found
        self._code()
        self._data()
        self._sections()
        self._close()
        # A macro's variable in a function that is replaced anyway is part of the livepatch.
        replaced = {new.name for _, new in found.functions()} | {piece.name for piece in found.added}
        found.states = [one for one in dict.fromkeys(self.comparison.states) if one.user not in replaced]
        found.lines = [one for one in dict.fromkeys(self.comparison.lines) if one not in replaced]
        return found

    def _code(self) -> None:
        before, after = self.found.before.pieces, self.found.after.pieces
        for kind, new in after.items():
            if new.is_code:
                old = before.get(kind)
                if old is None:
                    self.found.added.append(new)
                elif why := self.comparison.code_differs(old, new):
                    self.found.replaced[new.key] = why
                elif old.name != new.name:
                    self.found.renamed.append((old.name, new.name))
        self.found.removed += [old for kind, old in before.items() if old.is_code and kind not in after]

    def _data(self) -> None:
        matched: set[Key] = set()
        for old in self.found.before.pieces.values():
            if old.is_code or _is_special(old):
                continue
            new = self.comparison.twin(old)
            if new is None:
                self.found.removed.append(old)
                continue
            matched.add(new.key)
            if why := self.comparison.data_differs(old, new):
                self.found.data.append(DataChange(new.name, new.section, old, new, why))
            elif old.name != new.name:
                self.found.renamed.append((old.name, new.name))
        for new in self.found.after.pieces.values():
            if not new.is_code and not _is_special(new) and new.key not in matched:
                self.found.added.append(new)

    def _sections(self) -> None:
        """Compare what has no name of its own: tables whose entries the kernel walks, and code of assembly."""
        one, other = (_nameless(image) for image in (self.found.before, self.found.after))
        for key in dict.fromkeys((*one, *other)):
            old, new = one.get(key), other.get(key)
            if old is not None and new is not None:
                if why := self.comparison.sections_differ(old, new):
                    self.found.data.append(DataChange(new.name, new, None, None, why))
            elif new is not None and new.size:
                self.found.data.append(DataChange(new.name, new, None, None, "is new"))
            elif old is not None and old.size:
                self.found.data.append(DataChange(old.name, old, None, None, "is gone"))
        if why := self.comparison.nameless_differ():
            table = self.found.after.elf.sections[0]
            self.found.data.append(DataChange("a table about code without a name", table, None, None, f"has {why}"))
        for section in self.found.after.loaded:
            old = self.found.before.elf.by_name.get(section.name)
            if section.merged and old is not None:
                both = (image.content(part, 0, part.size) for image, part in ((self.found.before, old),
                                                                             (self.found.after, section)))  # fmt: skip
                if len(set(both)) > 1:
                    self.found.moved.append(section.name)

    def _close(self) -> None:
        """Replace also what a replaced function could not work without, until nothing is to be added.

        A part that the compiler cut out of a function is no entry for ftrace: its users change with it. An unlikely
        part jumps back into its function: it changes with that. A constant table that changes must change for all.
        """
        pieces, users = self.found.after.pieces, self.found.after.users
        tables = {one.new.key for one in self.found.data if one.new is not None and is_read_only(one.new)}
        used: dict[Key, set[Key]] = defaultdict(set)
        for (is_code, key), by in users.items():
            for one in by:
                if not is_code and key in tables and not isinstance(one, str) and one[0]:
                    used[one[1]].add(key)
        waiting = [*self.found.replaced, *[one.key for one in self.found.added if one.is_code]]
        while waiting:
            key = waiting.pop()
            piece = pieces[True, key]
            for other, why in self._with(piece, used):
                if other not in self.found.replaced and (True, other) in self.found.before.pieces:
                    self.found.replaced[other] = why
                    waiting.append(other)

    def _with(self, piece: Piece, used: Mapping[Key, set[Key]]) -> Iterator[tuple[Key, str]]:
        pieces, users = self.found.after.pieces, self.found.after.users
        parent = self.found.after.parent(piece)
        if parent is not None:
            yield parent.key, f"its part {piece.name} changes"
            for one in users.get((True, piece.key), ()):
                if not isinstance(one, str) and one[0] and not runs_once(pieces[one].section.name):
                    yield one[1], f"it uses {piece.name}, which changes"
        for other in self._colds.get(piece.key, ()):
            yield other, f"it is part of {piece.name}, which changes"
        for table in used.get(piece.key, ()):
            for one in users.get((False, table), ()):
                if not isinstance(one, str) and one[0] and not runs_once(pieces[one].section.name):
                    yield one[1], f"it uses {pieces[False, table].name}, which changes"

    @cached_property
    def _colds(self) -> dict[Key, list[Key]]:
        """The unlikely parts of each function."""
        found: dict[Key, list[Key]] = defaultdict(list)
        for piece in self.found.after.pieces.values():
            if is_cold(piece.name) and (parent := self.found.after.parent(piece)) is not None:
                found[parent.key].append(piece.key)
        return dict(found)


def is_read_only(piece: Piece) -> bool:
    """Return if a piece is constant data."""
    return not piece.is_code and not piece.section.writable


def _is_special(piece: Piece) -> bool:
    """Return if a piece is compared by its use, or is no part of the kernel at run time."""
    name = piece.section.name
    return is_constant(piece.name, name) or is_state(piece.name, name) or is_left_out(name) or is_derived(name)


def _nameless(image: Image) -> dict[tuple[str, int], Section]:
    """Return the sections whose content nothing compares by name or by use, by their plain name and number."""
    found: dict[tuple[str, int], Section] = {}
    counts: dict[str, int] = defaultdict(int)
    for section in image.loaded:
        name = section.name
        by_use = section.merged or name in TABLES or name in OUT_OF_LINE or name in {".data", ".bss"}
        by_use = by_use or (name.startswith(".rodata") and not section.writable)  # jump tables, constants of functions
        if by_use or is_left_out(name) or is_derived(name) or image.by_section.get(section.number):
            continue
        if section.executable and not section.size:
            continue
        key = (plain(name), counts[plain(name)])
        counts[plain(name)] += 1
        found[key] = section
    return found
