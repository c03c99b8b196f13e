# SPDX-License-Identifier: GPL-2.0-or-later
"""Explanation of problems that tools find in objects, in terms of the source: the lines concerned, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from elivepatch.build.objects.registered import in_words_of_macros
from elivepatch.build.sandbox.output import source_text
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import Problem
from elivepatch.model.series import PatchSeries
from elivepatch.patch.c_source import ENDING, STARTING, Definition, DefinitionKind, read_definitions, words_of
from elivepatch.patch.locate import ChangedLine, changed_lines, lines_about
from elivepatch.patch.places import follow
from elivepatch.patch.selection import with_prefixes

# Codes of problems whose messages name functions or data of the source.
_WITH_LINES = frozenset(
    ("init-code", "init-only", "data-layout", "data-change", "ops-table", "new-data", "no-function-entry",
     "outlined-inline", "shared-section", "static-local", "jump-label", "static-call", "export", "new-export",
     "export-type", "section-change", "special-section", "undefined-symbol", "sealed-endbr", "weak-overridden",
     "header", "assembly", "freed-memory", "module-symbol", "lost-change")
)  # fmt: skip
_PADDING = "__pfx_"
_ENTRYLESS = re.compile(r"(\w+)\S* (?:in|of) (\S+) (?:has no patchable entry|cannot be traced)")
_INLINE = frozenset(("inline", "__inline", "__inline__"))
_UNTRACED = frozenset(("notrace", "noinstr", "__init", "__exit", "__cpuidle", "__kprobes"))


@dataclass(frozen=True)
class Explainer:
    """Explains problems of one series that `read_series` accepted, for the unpatched source `tree`."""

    series: PatchSeries
    tree: Path

    def definitions(self, path: str) -> tuple[Definition, ...]:
        """Return the definitions in the unpatched file at `path`, empty if the file is missing."""
        if path not in self._known:
            self._known[path] = read_definitions(self._text(path))
        return self._known[path]

    def explain(self, found: Problem) -> Problem:
        """Return the problem with the lines of the series that it is about, and with a closer code if one is known."""
        if found.code not in _WITH_LINES:
            return found
        if (closer := in_words_of_macros(found, self.changed, self._defined)) != found:
            return self._with_lines(closer)
        if found.code == "no-function-entry":
            found = self._entryless(found)
        if found.code == "init-code" and self._changes_only(STARTING | ENDING):
            found = problem("init-only", found.message, excerpt=found.excerpt)
        return self._with_lines(found)

    def _with_lines(self, found: Problem) -> Problem:
        lines = lines_about(self.changed, found.message, self.definitions)
        if not lines:
            return found
        excerpt = "\n".join([*([found.excerpt, ""] if found.excerpt else []), "Lines concerned:", *lines])
        return replace(found, excerpt=excerpt)

    def notes(self, replaced: Mapping[str, frozenset[str]]) -> Iterator[Note]:
        """Yield notes about a change of the functions `replaced`, which are given by their source."""
        names = frozenset().union(*replaced.values())
        changed = {
            line.inside: line for line in self.changed if line.inside and line.inside.kind is DefinitionKind.FUNCTION
        }
        for function, line in changed.items():
            if function.name in names or function.name.startswith("sys_"):
                continue
            if self._removed(function):
                message = f"{line.path} no longer has {function.name}; its code stays in the kernel."
                yield Note(code="code-removed", message=message)
            elif around := sorted(self._around(line.path, function.name, names)):
                message = (
                    f"{function.name} of {line.path} is inlined: the functions replaced are {', '.join(around[:6])}."
                )
                yield Note(code="inlined", message=message)
        for path in dict.fromkeys(line.path for line in self.changed if line.path.endswith(".h")):
            message = f"{path} is included by these changed sources: {', '.join(sorted(replaced)[:6])}."
            yield Note(code="header-reach", message=message)

    @cached_property
    def _known(self) -> dict[str, tuple[Definition, ...]]:
        return {}

    @cached_property
    def changed(self) -> list[ChangedLine]:
        """The changed lines of the series, as they were applied."""
        series, _ = with_prefixes(self.series, self._source)
        return list(changed_lines(follow(series, self._source), self.definitions))

    def _source(self, path: str) -> str | None:
        return source_text(self.tree, path)

    def _text(self, path: str) -> str:
        return self._source(path) or ""

    def _defined(self, name: str) -> bool:
        """Return if a changed source defines a function itself, not by a macro."""
        paths = dict.fromkeys(line.path for line in self.changed)
        return any(one.name == name for path in paths for one in self.definitions(path))

    def _changes_only(self, marks: frozenset[str]) -> bool:
        """Return if everything that the series changes lies in definitions with one of `marks`."""
        lines = [line for line in self.changed if words_of(line.text)]
        return bool(lines) and all(line.inside is not None and line.inside.words & marks for line in lines)

    def _removed(self, function: Definition) -> bool:
        """Return if the series removes the first line of a function and adds no line with its name."""
        signs = {line.sign for line in self.changed if function.name in words_of(line.text)}
        starts = any(
            line.inside is function and line.sign == "-" and line.number == function.start for line in self.changed
        )
        return starts and "+" not in signs

    def _around(self, path: str, name: str, replaced: frozenset[str]) -> set[str]:
        """Return the functions among `replaced` that call a function of the same file, at any depth of inlining."""
        lines = self._text(path).split("\n")
        bodies = {
            one.name: words_of("\n".join(lines[one.start - 1 : one.end]))
            for one in self.definitions(path)
            if one.kind is DefinitionKind.FUNCTION
        }
        found, wanted = set[str](), [name]
        seen = {name}
        while wanted:
            called = wanted.pop()
            callers = {caller for caller, words in bodies.items() if called in words and caller not in seen}
            found |= callers & replaced
            seen |= callers
            wanted += callers - replaced
        return found

    def _entryless(self, found: Problem) -> Problem:
        named = _ENTRYLESS.match(found.message)
        if named is None:
            return found
        name, source = named[1], named[2]
        if name.startswith(_PADDING):
            # objtool's symbol for the bytes before a function differs only if the function has another section.
            sentence = f"{source} moves {name.removeprefix(_PADDING)} to another section."
            return problem("section-change", sentence, excerpt=found.excerpt)
        paths = [source, *dict.fromkeys(line.path for line in self.changed)]
        known = [one for path in paths for one in self.definitions(path) if one.name == name and one.head]
        function = next((one for one in known if one.kind is DefinitionKind.FUNCTION), None)
        if function is None or function.words & _INLINE:
            sentence = f"{name} in {source} is an inline function that the compiler did not inline."
            return problem("outlined-inline", sentence, excerpt=found.excerpt)
        if marks := sorted(function.words & _UNTRACED):
            return replace(found, message=f"{name} in {source} is marked {marks[0]} and has no patchable entry.")
        if reason := self._makefile(source):
            return replace(found, message=f"{name} in {source} has no patchable entry: {reason}.")
        return found

    def _makefile(self, source: str) -> str:
        place = PurePosixPath(source)
        makefile = f"{place.parent}/Makefile"
        flags = rf"(?:CFLAGS_REMOVE_{re.escape(place.stem)}\.o|ccflags-remove-(?:y|\$\(\w+\)))"
        removed = re.compile(rf"(?m)^{flags}\s*[:+]?=.*CC_FLAGS_FTRACE.*$")
        line = removed.search(self._text(makefile))
        return f"{makefile} builds it without ({' '.join(line[0].split())})" if line else ""
