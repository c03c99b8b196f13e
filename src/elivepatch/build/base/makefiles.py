# SPDX-License-Identifier: GPL-2.0-or-later
"""Inputs of the files that a kernel's build generates, by what its Makefiles name.

A generated file is made by a program that the build compiles first (`hostprogs`), or by sed, awk or a script that reads
a header. No rule is interpreted: each generated file below a directory counts as made from every header, and by every
program, that a Makefile of this directory names. A file that turns out to be the same drops out later.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

_LINE = re.compile(r"(?P<file>[^:]+):(?P<text>.*)")
_PROGRAMS = re.compile(r"^\s*(?:hostprogs|userprogs)[\w$()-]*\s*[:+?]?=\s*(?P<names>.*)")
_PARTS = re.compile(r"^\s*(?P<program>[\w.-]+)-(?:objs|cxxobjs)\s*[:+?]?=\s*(?P<names>.*)")
_HEADER = re.compile(r"[\w./-]*\w\.h\b")
_WORD = re.compile(r"[\w./-]+")
_COMMENT = re.compile(r"(?m)^\s*#.*$")


@dataclass(frozen=True, slots=True)
class Generators:
    """Directories whose Makefile names a program's source or a header: `programs` and `headers`, each by its path."""

    programs: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, tuple[str, ...]]

    def made(self, generated: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Return those of the `generated` files that each input may be part of."""
        found = {}
        for inputs in (self.programs, self.headers):
            for path, directories in inputs.items():
                below = tuple(f"{directory}/" for directory in directories)
                if files := tuple(sorted(name for name in generated if name.startswith(below))):
                    found[path] = files
        return found


def read_generators(lines: Iterable[str], headers: Collection[str]) -> Generators:
    """Return the inputs from the lines `file:text` of all Makefiles; `headers` are all headers of the tree."""
    texts: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if found := _LINE.fullmatch(line):
            texts[posixpath.dirname(found["file"])].append(found["text"])
    joined = {place: re.sub(r"\\\n", " ", _COMMENT.sub("", "\n".join(text))) for place, text in texts.items()}
    words = {place: {posixpath.basename(word) for word in _WORD.findall(text)} for place, text in joined.items()}
    programs: dict[str, set[str]] = defaultdict(set)
    for place, text in joined.items():
        for program, sources in _programs(place, text).items():
            users = {one for one, seen in words.items() if posixpath.basename(program) in seen}
            for source in sources:
                programs[source] |= users
    return Generators(_sorted(programs), _sorted(_named(joined, headers)))


def _programs(place: str, text: str) -> dict[str, list[str]]:
    """Return the sources of each program that the Makefile of the directory `place` has the build compile."""
    names, parts = set[str](), dict[str, list[str]]()
    for line in text.splitlines():
        if found := _PROGRAMS.match(line):
            names |= set(_WORD.findall(found["names"].partition("#")[0]))
        elif found := _PARTS.match(line):
            parts.setdefault(found["program"], []).extend(_WORD.findall(found["names"]))
    return {
        name: [f"{place}/{part.removesuffix('.o')}.c" for part in parts.get(name, [name])] for name in sorted(names)
    }


def _named(texts: Mapping[str, str], headers: Collection[str]) -> dict[str, set[str]]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for header in headers:
        by_name[posixpath.basename(header)].append(header)
    found: dict[str, set[str]] = defaultdict(set)
    for place, text in texts.items():
        for token in set(_HEADER.findall(text)):
            # In front of it stand variables: $(srctree)/include/..., $(src)/../../include/...
            name = re.sub(r"^(?:\.{0,2}/)+", "", token)
            for header in by_name.get(posixpath.basename(name), ()):
                if f"/{header}".endswith(f"/{name}"):
                    found[header].add(place)
    return found


def _sorted(found: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    return {path: tuple(sorted(directories)) for path, directories in sorted(found.items())}
