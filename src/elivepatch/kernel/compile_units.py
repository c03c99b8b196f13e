# SPDX-License-Identifier: GPL-2.0-or-later
"""Which source file a kernel was built from, and into what each one went.

The compile units named in the debug information of the shipped kernel and modules say it for certain: no Makefile is
interpreted and nothing is guessed. Sources that other sources include are found by their #include lines.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from elivepatch.model.errors import EnvironmentFault

_FILE = re.compile(r"File: (?:\./)?(.+\.ko)(?:\.debug)?$")
_NAME = re.compile(r"\s*<[0-9a-f]+>\s+DW_AT_name\s+: (?:\([^)]*\): )?(.+?)\s*$")
_INCLUDE = re.compile(r"""([^:]+):\s*#\s*include\s+["<]([^">]+\.c)[">]""")


@dataclass(frozen=True, slots=True)
class Unit:
    """One compiled object. `target` is its path as make knows it, `parents` are `vmlinux` or names of modules."""

    source: str
    target: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Units:
    """All objects of a kernel by their source, and for sources that others include, who includes them."""

    by_source: Mapping[str, Unit]
    includers: Mapping[str, tuple[str, ...]]

    def reached_by(self, source: str) -> tuple[Unit, ...]:
        """Return the objects that contain code of `source`, directly or because their source includes it."""
        return tuple(self.by_source[name] for name in sorted(self.closure(source)) if name in self.by_source)

    def closure(self, source: str) -> frozenset[str]:
        """Return `source` and all sources that include it, at any depth, whether they are built or not."""
        seen: set[str] = set()
        pending = [source]
        while pending:
            current = pending.pop()
            if current not in seen:
                seen.add(current)
                pending.extend(self.includers.get(current, ()))
        return frozenset(seen)

    def save(self, path: Path) -> None:
        """Write to a JSON file."""
        data = {
            "units": {unit.source: [unit.target, *unit.parents] for unit in self.by_source.values()},
            "includers": {name: list(names) for name, names in self.includers.items()},
        }
        path.write_text(json.dumps(data, sort_keys=True, indent=0))

    @classmethod
    def load(cls, path: Path) -> Units:
        """Read from `save`'s file. Raises EnvironmentFault where that is damaged."""
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


def read_compile_units(listing: Iterable[str], *, parent: str = "") -> dict[str, tuple[str, set[str]]]:
    """Return normalised source to (source as compiled, parents) from `readelf -wi --dwarf-depth=1`.

    `parent` is what the first names belong to; a `File:` line of a module changes it.
    """
    found: dict[str, tuple[str, set[str]]] = {}
    for line in listing:
        if heading := _FILE.match(line):
            parent = PurePosixPath(heading[1]).stem.replace("-", "_")
        elif (name := _NAME.match(line)) and parent:
            raw = name[1]
            if raw.endswith(".mod.c") or raw.startswith("<") or not raw.endswith((".c", ".S", ".rs")):
                continue
            clean = posixpath.normpath(raw)
            found.setdefault(clean, (raw, set()))[1].add(parent)
    return found


def make_units(compiled: Mapping[str, tuple[str, set[str]]], include_lines: Iterable[str], exists: set[str]) -> Units:
    """Return the units from compile units and the lines `file:#include "x.c"`; `exists` are all .c files there are."""
    units = {
        source: Unit(source, re.sub(r"\.(c|S|rs)$", ".o", raw), tuple(sorted(parents)))
        for source, (raw, parents) in compiled.items()
        if not raw.startswith("/")
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
