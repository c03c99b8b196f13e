# SPDX-License-Identifier: GPL-2.0-or-later
"""Settlement of an account: each difference is in the diff object, or a named rule explains it, or it is refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from elivepatch.build.account.account import Account, DataChange, is_read_only
from elivepatch.build.account.compare import StateChange
from elivepatch.build.account.image import Image, Key, Piece
from elivepatch.build.account.names import is_constant, is_left_out, is_state, parent_of, plain, runs_once
from elivepatch.build.account.values import value_change
from elivepatch.kernel.elf import TYPE_FUNC, ElfFile, Section
from elivepatch.model.build import Explained
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, Problem

_SHOWN = 6
_ORDINARY = (".text", ".data", ".rodata", ".bss")
# Tables that the kernel needs for the code itself; entries for tracepoints and messages may be left out of others.
_NEEDED_TABLES = ("__ex_table", ".altinstructions", ".parainstructions")


@dataclass(frozen=True)
class Carried:
    """Content of a diff object, empty if there is none. `redirected` are the functions that it replaces."""

    elf: ElfFile | None
    redirected: frozenset[str]

    @cached_property
    def names(self) -> frozenset[str]:
        """Plain names of the functions and data in it."""
        if self.elf is None:
            return frozenset()
        return frozenset(plain(one.name) for one in self.elf.symbols if one.defined)

    @cached_property
    def code(self) -> dict[str, set[bytes]]:
        """The bytes of its functions by their plain names."""
        found: dict[str, set[bytes]] = defaultdict(set)
        if self.elf is not None:
            for one in self.elf.symbols:
                if one.kind == TYPE_FUNC and one.defined:
                    found[plain(one.name)].add(self.elf.part(self.elf.sections[one.section], one.value, one.size))
        return found

    @cached_property
    def contents(self) -> dict[str, set[bytes]]:
        """The bytes of its sections by their plain names."""
        found: dict[str, set[bytes]] = defaultdict(set)
        for section in self.elf.sections if self.elf is not None else ():
            if section.loaded:
                found[plain(section.name)].add(_bytes(self.elf, section))
        return found

    def has(self, image: Image, section: Section) -> bool:
        """Return if the diff object has a section of `image` unchanged."""
        return _bytes(image.elf, section) in self.contents.get(plain(section.name), ())


def _bytes(elf: ElfFile | None, section: Section) -> bytes:
    return b"" if elf is None else elf.content(section) or section.size.to_bytes(8, "little")


def settle(account: Account, *, source: str, carried: Carried, ignored: Collection[str] = ()) -> tuple[Explained, ...]:
    """Return what rules explain of the differences that are not in the livepatch.

    `ignored` are the functions and sections that the series itself leaves out. Raises BuildStopped with the code that
    fits if a difference would be lost.
    """
    return _Settlement(account, source, carried, frozenset(ignored)).settle()


def settle_functions(account: Account, *, source: str, replaced: Collection[str]) -> None:
    """Raise BuildStopped if a function differs that is not among the `replaced`, or a macro's static variable does.

    For livepatches that another tool made: their content has another form than a diff object.
    """
    _Settlement(account, source, Carried(None, frozenset(replaced)), frozenset()).settle_functions()


@dataclass(frozen=True)
class _Settlement:
    account: Account
    source: str
    carried: Carried
    ignored: frozenset[str]

    def settle(self) -> tuple[Explained, ...]:
        losses = [*self._code(), *self._data(), *map(self._state, self.account.states), *self._additions(),
                  *self._removals(), *self._content()]  # fmt: skip
        if losses:
            first = losses[0]
            others = "\n".join(dict.fromkeys(one.message for one in losses[1:9]))
            raise BuildStopped(problem(first.code, first.message, excerpt=others))
        return tuple(self._explained())

    def settle_functions(self) -> None:
        redirected = {plain(one) for one in self.carried.redirected}
        for _, new in self.account.functions():
            if not redirected & {plain(new.name), plain(parent_of(new.name))}:
                raise BuildStopped(self._lost_function(new))
        for state in self.account.states:
            raise BuildStopped(self._state(state))

    def _lost_function(self, new: Piece) -> Problem:
        why = self.account.replaced[new.key]
        return self._lost(f"The change of {new.name} in {{source}} would be lost: {why}.")

    def _lost(self, sentence: str, code: str = "lost-change") -> Problem:
        # Names in the sentence come from an object and may hold braces.
        return problem(code, sentence.replace("{source}", self.source))

    def _code(self) -> Iterator[Problem]:
        for old, new in self.account.functions():
            if self._is_ignored(old, new):
                continue
            part = self.account.after.parent(new) is not None
            if not self._has_code(new) or (not part and old.name not in self.carried.redirected):
                yield self._lost_function(new)

    def _has_code(self, piece: Piece) -> bool:
        """Return if the diff object has the very bytes of a function."""
        code = self.account.after.content(piece.section, piece.start, piece.end)
        return code in self.carried.code.get(plain(piece.name), ())

    def _data(self) -> Iterator[Problem]:
        for one in self.account.data:
            if one.section.name in self.ignored:
                continue
            if runs_once(one.section.name):
                yield self._lost(f"{{source}} changes what only runs at start-up or at the end: {one.name}.",
                                 "init-code")  # fmt: skip
            elif one.new is None or one.old is None:
                yield self._section(one)
            elif not is_read_only(one.new) or not self.carried.has(self.account.after, one.section):
                change = value_change(self.account, one.old, one.new)
                yield self._lost(f"{{source}} changes {one.name}{change}, and the livepatch would not carry that.")
            elif elsewhere := self._users_elsewhere(one.new):
                users = ", ".join(elsewhere[:_SHOWN])
                yield self._lost(f"{{source}} changes {one.name}, and {users} would go on with the old content.")

    def _section(self, one: DataChange) -> Problem:
        if "ksymtab" in one.name or "export_symbol" in one.name or "kcrctab" in one.name:
            return self._lost("{source} changes what is exported.", "new-export" if one.why == "is new" else "export")
        return self._lost(f"{{source}} changes {one.name} ({one.why}), and the livepatch would not carry that.")

    def _users_elsewhere(self, piece: Piece) -> list[str]:
        """Return what uses a constant but is not part of the livepatch; a global constant has users in other files."""
        pieces, found = self.account.after.pieces, list[str]()
        if piece.symbol.bind:
            found.append("code of other files")
        for one in self.account.after.users.get((False, piece.key), ()):
            if isinstance(one, str):
                found.append(f"the section {one}")
            elif plain(pieces[one].name) not in self.carried.names:
                found.append(pieces[one].name)
        return sorted(found)

    def _state(self, one: StateChange) -> Problem:
        change = value_change(self.account, one.old, one.new)
        name = one.new.name.partition(".")[0]
        sentence = (
            f"{{source}} changes the initial value of {name} in {one.user}{change}; the live one keeps its value."
        )
        return self._lost(sentence, "data-change")

    def _additions(self) -> Iterator[Problem]:
        for piece in self.account.added:
            name = piece.section.name
            if plain(piece.name) in self.carried.names or self.ignored & {piece.name, name}:
                continue
            if runs_once(name):
                yield self._lost(
                    f"{{source}} adds what only runs at start-up or at the end: {piece.name}.", "init-code"
                )
            elif not name.startswith(_ORDINARY) or any(self._is_carried(user) for user in self._users(piece)):
                yield self._lost(f"{{source}} adds {piece.name} to the section {name}, and the livepatch would not "
                                 "carry that.")  # fmt: skip

    def _users(self, piece: Piece) -> set[tuple[bool, Key] | str]:
        return self.account.after.users.get((piece.is_code, piece.key), set())

    def _is_carried(self, user: tuple[bool, Key] | str) -> bool:
        return not isinstance(user, str) and plain(self.account.after.pieces[user].name) in self.carried.names

    def _removals(self) -> Iterator[Problem]:
        for piece in self.account.removed:
            name = piece.section.name
            if name in self.ignored or name.startswith(_ORDINARY):
                continue
            if runs_once(name):
                yield self._lost(f"{{source}} removes what only runs at start-up or at the end: {piece.name}.",
                                 "init-code")  # fmt: skip
            else:
                yield self._lost(f"{{source}} removes {piece.name} from the section {name}, and the kernel keeps it.")

    def _content(self) -> Iterator[Problem]:
        """Yield what replaced functions use and the diff object lacks: our own check of create-diff-object."""
        image, needed = self.account.after, dict[int, str]()
        wanted: dict[str, int] = defaultdict(int)
        added = [one for one in self.account.added if one.is_code and plain(one.name) in self.carried.names]
        for new in added:
            if not self._has_code(new):
                yield self._lost(f"The livepatch has other code of the new {new.name} of {{source}}.")
        for new in (*self._replaced(), *added):
            for table, _, part in image.entries.get(new.key, ()):
                wanted[table] += part.end - part.start
            for entry in image.relocations(new.section, new.start, new.end):
                place = image.place(entry, in_code=True)
                if place.section and self._is_content(image, place.section, place.position):
                    needed.setdefault(place.section, new.name)
        for number, user in needed.items():
            section = image.elf.sections[number]
            if not self.carried.has(image, section):
                yield self._lost(f"The livepatch lacks {section.name} of {{source}}, which {user} uses.")
        for table in _NEEDED_TABLES:
            elf = self.carried.elf
            found = elf.by_name.get(table) if elf is not None else None
            if wanted[table] > (found.size if found is not None else 0):
                yield self._lost(f"The livepatch lacks entries of the table {table} of {{source}}.")

    def _replaced(self) -> list[Piece]:
        return [new for old, new in self.account.functions() if not self._is_ignored(old, new)]

    def _is_ignored(self, old: Piece, new: Piece) -> bool:
        """Return if the series leaves a function out: by its name, its section, or that of which it is a part."""
        return bool(self.ignored & {old.name, new.name, parent_of(new.name), old.section.name, new.section.name})

    @staticmethod
    def _is_content(image: Image, number: int, position: int) -> bool:
        section = image.elf.sections[number]
        names = image.at(number, position)
        if section.merged or (not names and section.name.startswith(".rodata")):
            return True
        return any(is_constant(one.name, section.name) or is_state(one.name, section.name) for one in names)

    def _explained(self) -> Iterator[Explained]:
        account = self.account
        if account.lines:
            yield self._rule("line-number", account.lines)
        if account.renamed:
            yield self._rule("number-in-name", [f"{old} is {new}" for old, new in account.renamed])
        if account.moved:
            yield self._rule("strings", account.moved)
        if unused := [one.name for one in account.added if plain(one.name) not in self.carried.names]:
            yield self._rule("unused", unused)
        if removed := [one.name for one in account.removed if one.section.name.startswith(_ORDINARY)]:
            yield self._rule("removed", removed)
        if self.ignored:
            yield self._rule("ignored", sorted(self.ignored))
        if same := sorted(self.carried.redirected - {old.name for old, _ in account.functions()}):
            yield self._rule("replaced-unchanged", same)
        if left_out := self._left_out():
            yield self._rule("not-loaded", left_out)

    def _left_out(self) -> list[str]:
        """Return the sections that differ and that are not part of the running kernel."""
        one, other = (
            {section.name: section for section in image.elf.sections if is_left_out(section.name)}
            for image in (self.account.before, self.account.after)
        )
        return [
            name for name in sorted(one.keys() | other.keys())
            if name not in one or name not in other
            or self.account.before.elf.content(one[name]) != self.account.after.elf.content(other[name])
        ]  # fmt: skip

    def _rule(self, rule: str, names: Sequence[str]) -> Explained:
        listed = list(dict.fromkeys(names))
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        return Explained(rule=rule, source=self.source, what=", ".join(listed[:_SHOWN]) + more)
