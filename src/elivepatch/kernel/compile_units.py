# SPDX-License-Identifier: GPL-2.0-or-later
"""Source files of a kernel, and the object and the modules that each became part of.

The compile units in the debug info of the shipped kernel and modules are the proof: no Makefile is interpreted and
nothing is guessed. Sources that other sources include are found by their #include lines.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import VMLINUX

# Every kernel has this source, whose name shows the directory of all.
_FIRST = "init/main.c"
_INCLUDE = re.compile(r"""([^:]+):\s*#\s*include\s*["<]([^">]+\.c)[">]""")


@dataclass(frozen=True, slots=True)
class Unit:
    """One compiled object. `target` is its path as make names it, `parents` are `vmlinux` or names of modules."""

    source: str
    target: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Units:
    """All objects of a kernel by their source; `includers` holds the sources that include another source."""

    by_source: Mapping[str, Unit]
    includers: Mapping[str, tuple[str, ...]]

    def reached_by(self, source: str) -> tuple[Unit, ...]:
        """Return the objects with code of `source`: its own, and those of sources that include it."""
        return tuple(self.by_source[name] for name in sorted(self.closure(source)) if name in self.by_source)

    def closure(self, source: str) -> frozenset[str]:
        """Return `source` and all sources that include it, at any depth, built or not."""
        seen: set[str] = set()
        pending = [source]
        while pending:
            current = pending.pop()
            if current not in seen:
                seen.add(current)
                pending.extend(self.includers.get(current, ()))
        return frozenset(seen)

    def save(self, path: Path) -> None:
        """Write a JSON file at `path`, which nobody else reads yet."""
        data = {
            "units": {unit.source: [unit.target, *unit.parents] for unit in self.by_source.values()},
            "includers": {name: list(names) for name, names in self.includers.items()},
        }
        path.write_text(json.dumps(data, sort_keys=True, indent=0))

    @classmethod
    def load(cls, path: Path) -> Units:
        """Return the units that `save` wrote. Raises EnvironmentFault if the file is damaged."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            units = {
                source: Unit(source, target, tuple(parents)) for source, (target, *parents) in data["units"].items()
            }
            return cls(units, {name: tuple(names) for name, names in data["includers"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EnvironmentFault(
                "base-damaged",
                "The base's list of objects cannot be read.",
                advice="Remove the kernel and add it again.",
            ) from error


def module_name(file_name: str) -> str:
    """Return the name that the kernel gives the module in a file such as `snd-hda-intel.ko` or `x.ko.debug`."""
    return file_name.split(".ko")[0].replace("-", "_")


def read_compile_units(names: Iterable[str], *, parent: str) -> dict[str, tuple[str, set[str]]]:
    """Return a mapping of normalised source to (source as compiled, parents) from the names of compile units.

    `parent` is vmlinux or the name of the module that has them.
    """
    found: dict[str, tuple[str, set[str]]] = {}
    for raw in names:
        if raw.endswith((".c", ".S", ".rs")) and not raw.endswith(".mod.c") and not raw.startswith("<"):
            found.setdefault(posixpath.normpath(raw), (raw, set()))[1].add(parent)
    return found


def _source_directory(compiled: Mapping[str, tuple[str, set[str]]]) -> str:
    """Return the directory of the source with a slash at its end, empty unless the kernel was built outside of it.

    The compiler sees an absolute name, one that begins with `../` if the kernel was built in a directory of the source,
    or one of which a package's build has taken the first directories away.
    """
    if _FIRST in compiled:
        return ""
    places = [
        source.removesuffix(_FIRST)
        for source, (_raw, parents) in compiled.items()
        if source.endswith(f"/{_FIRST}") and VMLINUX in parents
    ]
    return places[0] if len(places) == 1 else ""


def make_units(compiled: Mapping[str, tuple[str, set[str]]], include_lines: Iterable[str], exists: set[str]) -> Units:
    """Return the units from compile units and the lines `file:#include "x.c"`; `exists` are the tree's .c files.

    A kernel that was built outside its source (make O=DIR) has absolute names; those of its source are units too.
    """
    top = _source_directory(compiled)
    inside: dict[str, tuple[str, set[str]]] = {}
    for source, (raw, parents) in compiled.items():
        if not raw.startswith("/") or (top and source.startswith(top)):
            inside.setdefault(source.removeprefix(top), (raw.removeprefix(top), set()))[1].update(parents)
    units = {
        source: Unit(source, re.sub(r"\.(c|S|rs)$", ".o", raw), tuple(sorted(parents)))
        for source, (raw, parents) in inside.items()
    }
    includers: dict[str, set[str]] = defaultdict(set)
    for line in include_lines:
        if found := _INCLUDE.match(line):
            includer = posixpath.normpath(found[1])
            for place in (posixpath.dirname(includer), "", "include"):
                included = posixpath.normpath(posixpath.join(place, found[2]))
                if included in exists:
                    includers[included].add(includer)
                    break
    return Units(units, {name: tuple(sorted(names)) for name, names in includers.items()})
