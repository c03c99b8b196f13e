# SPDX-License-Identifier: GPL-2.0-or-later
"""Judgement of what became of a change: carried into the livepatch, without effect, or lost.

It compares the original, the patched object and the livepatch by object_contents.py alone; docs/adr/0002 says why the
product compares them too. Each function that differs has to be in the livepatch, with the patched object's bytes and
references, and has to replace the old one. A change of anything else is lost, unless functions with a copy of it
replace all that use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.process import run
from object_contents import Comparison, Contents, Section, Symbol, is_made, plain_name

_PART = re.compile(r"\.(?:part|cold)\b")


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences of an object: names of functions and variables, other sections, and reasons in words."""

    functions: tuple[str, ...] = ()
    starting: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.functions or self.starting or self.variables or self.constants or self.sections)

    @property
    def shown(self) -> str:
        named = (*self.functions, *self.starting, *self.variables, *self.constants, *self.sections)
        return f"{', '.join(named[:6])} ({'; '.join(self.reasons[:3])})"


@dataclass
class _Reader:
    """The comparison of one original with one patched object."""

    comparison: Comparison
    sizes: Mapping[str, int]
    starting: list[str] = field(default_factory=list)

    @property
    def first(self) -> Contents:
        return self.comparison.first

    @property
    def second(self) -> Contents:
        return self.comparison.second

    def functions(self) -> Iterator[str]:
        """Yield the functions that differ, are gone or are new; those of start-up go to `starting`."""
        entries = [file.entries(dict(self.sizes)) for file in (self.first, self.second)]
        for name in sorted(self.first.functions.keys() | self.second.functions.keys()):
            if name.startswith("__pfx_"):
                continue
            one, other = self.first.functions.get(name), self.second.functions.get(name)
            if one is None or other is None:
                self.comparison.different.append(f"{name}: {'new' if one is None else 'gone'}")
            elif self.same_function(one, other, *[each.get(name, []) for each in entries]):
                continue
            known = one or other
            place = (self.first if one is not None else self.second).range_of(known)[0] if known is not None else None
            if place is not None and place.only_once:
                self.starting.append(name)
            else:
                yield name

    def same_function(self, one: Symbol, other: Symbol, *entries: list[tuple[Section, int, int]]) -> bool:
        return self.comparison.same(
            self.first.range_of(one), self.second.range_of(other), one.name
        ) and self.same_entries(one.name, *entries)

    def same_entries(self, name: str, *entries: list[tuple[Section, int, int]]) -> bool:
        if len(entries[0]) != len(entries[1]):
            self.comparison.different.append(f"{name}: {len(entries[0])} entries became {len(entries[1])}")
            return False
        return all(
            self.comparison.same(one, other, f"{name} in {one[0].name}") for one, other in zip(*entries, strict=True)
        )

    def variables(self) -> Iterator[tuple[str, bool]]:
        """Yield the variables that differ, and if other code cannot see that: constants of this object alone."""
        for name in sorted(self.first.variables.keys() | self.second.variables.keys()):
            one, other = self.first.variables.get(name), self.second.variables.get(name)
            symbol = one or other
            if symbol is None or is_made(name):
                continue
            file = self.first if one is not None else self.second
            section = file.range_of(symbol)[0]
            if not section.used or section.of_table:
                continue
            private = symbol.local and not section.writable and not section.only_once
            if one is None or other is None:
                if one is not None or section.name.startswith("__"):
                    self.comparison.different.append(f"{name}: {'new' if one is None else 'gone'}")
                    yield name, private or one is not None
            elif not self.comparison.same(self.first.range_of(one), self.second.range_of(other), name):
                yield name, private

    def sections(self, *, tables: bool) -> Iterator[str]:
        """Yield the other sections that differ; those of tables that follow from code only if `tables`."""
        found = [self._by_name(file, tables=tables) for file in (self.first, self.second)]
        for name in sorted(found[0].keys() | found[1].keys()):
            one, other = found[0].get(name, []), found[1].get(name, [])
            if len(one) != len(other):
                self.comparison.different.append(f"{name}: {len(one)} sections became {len(other)}")
                yield name
            elif not all(
                self.comparison.same((mine, 0, mine.size), (its, 0, its.size), name)
                for mine, its in zip(one, other, strict=True)
            ):
                yield name

    def _by_name(self, file: Contents, *, tables: bool) -> dict[str, list[Section]]:
        with_symbols = {one.section for one in (*file.functions.values(), *file.variables.values())}
        found: dict[str, list[Section]] = {}
        for one in file.sections:
            if not one.used or one.executable or not one.size:
                continue
            # A section of data without symbols, such as the table of a switch, belongs to the code that leads there.
            unnamed = not one.shared and not one.name.startswith((".rodata", ".data", ".bss"))
            if tables if one.of_table else unnamed and one.number not in with_symbols:
                found.setdefault(plain_name(one.name), []).append(one)
        return found


def changes(original: Path, patched: Path, sizes: Mapping[str, int]) -> Changes:
    """Return the differences of two objects in all that the kernel uses; `sizes` are those of structures."""
    comparison = Comparison(Contents(original), Contents(patched))
    reader = _Reader(comparison, sizes)
    functions = tuple(reader.functions())
    variables = list(reader.variables())
    sections = tuple(reader.sections(tables=not functions and not reader.starting))
    return Changes(
        functions=functions,
        starting=tuple(reader.starting),
        variables=tuple(name for name, private in variables if not private),
        constants=tuple(name for name, private in variables if private),
        sections=sections,
        reasons=tuple(comparison.different),
    )


def lost(original: Path, patched: Path, module: Path, sizes: Mapping[str, int]) -> list[str]:
    """Return the changes of an object that its livepatch does not carry, each in words."""
    found = changes(original, patched, sizes)
    reasons = [f"{one} runs at start-up" for one in found.starting]
    reasons += [f"the variable {one} changes" for one in found.variables]
    reasons += [f"the section {one} changes" for one in found.sections]
    if found.constants and not found.functions:
        reasons += [f"the constant {one} changes" for one in found.constants]
    old, new, made = Contents(original), Contents(patched), Contents(module)
    comparison = Comparison(new, made, kernel=old)
    reader = _Reader(comparison, sizes)
    entries = [file.entries(dict(sizes)) for file in (new, made)]
    for name in found.functions:
        if name not in new.functions or name not in old.functions:
            continue  # its callers change, and refer to a new one
        if name not in made.functions:
            reasons.append(f"{name} changes and is not in the livepatch")
        elif not _is_replaced(name, old, made):
            reasons.append(f"{name} is in the livepatch and replaces nothing")
        elif not reader.same_function(
            new.functions[name], made.functions[name], *[each.get(name, []) for each in entries]
        ):
            reasons.append(f"{name} is not the patched one: {comparison.different[-1]}")
    return reasons


def _is_replaced(name: str, old: Contents, made: Contents) -> bool:
    """Return if a livepatch replaces a function, or all that lead to it if it is a part that the compiler made."""
    replacing = {plain for one in made.replacing for plain in (one, plain_name(one))}
    todo, seen = [name], {name}
    while todo:
        function = todo.pop()
        if function.partition(".cold")[0] in replacing:
            continue
        if not _PART.search(function):
            return False
        users = old.users(function)
        todo += users - seen
        seen |= users
    return True


def same_instructions(patched: Path, module: Path, function: str) -> list[str]:
    """Return if objdump shows other instructions of a function in the livepatch than in the patched object.

    References are left out: objdump names the symbol that happens to lie at their preliminary value. Addresses count,
    because a livepatch takes whole sections along.
    """
    listings = [_listing(Contents(file), function) for file in (patched, module)]
    if not listings[0] or listings[0] != listings[1]:
        return [f"objdump shows other instructions of {function} in the livepatch"]
    return []


def _listing(file: Contents, function: str) -> list[str]:
    section, start, end = file.range_of(file.functions[function])
    place = [f"--section={section.name}", f"--start-address={start}", f"--stop-address={end}"]
    text = run(["objdump", "-d", "-w", "--no-show-raw-insn", *place, file.path]).check("Disassembling").text
    lines = (re.sub(r"<[^<>]*>", "", line).rstrip() for line in text.split("\n"))
    targets = re.compile(r"\b(call|jmp) +[0-9a-f]+$")
    # An unresolved call aims at the next instruction, wherever the assembler put its addend.
    return [targets.sub(r"\1", line) if "call" in line else line for line in lines if re.match(r" +[0-9a-f]+:", line)]
