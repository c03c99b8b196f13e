# SPDX-License-Identifier: GPL-2.0-or-later
"""Users of a header: the files of a kernel tree that include it, directly or through others, by their #include lines.

A stock base is never built, so it has no dependency files. The result errs on the safe side: if a line cannot be
resolved for certain, every header that it could mean counts as included. An object that turns out not to use the
header compiles to the same code and drops out.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

# A header may be included by a macro that is its name: `#define GENL_MAGIC_INCLUDE_FILE <linux/drbd_genl.h>`.
_LINE = re.compile(r"""([^:]+):\s*#\s*(?:include\s*|define\s+\w+\s+(?=["<][\w./+-]+\.h[">]))(["<])([^">]+)[">]""")
_FORCED = frozenset({"include/linux/compiler-version.h", "include/linux/compiler_types.h", "include/linux/kconfig.h"})
"""Headers that the kernel's Makefile includes into every file by a compiler option, without an #include line."""

_ROOTS = ("include", "arch/x86/include", "include/uapi", "arch/x86/include/uapi")


@dataclass(frozen=True, slots=True)
class Includes:
    """Includers of each header: `resolved` by its path, `unresolved` by the last part of the name in the line.

    `made` holds the generated files that may be made from a file. `programs` are sources of programs that the build
    runs: what they include is an input too; of all other inputs only the text itself is.
    """

    resolved: Mapping[str, tuple[str, ...]]
    unresolved: Mapping[str, tuple[tuple[str, str], ...]]
    made: Mapping[str, tuple[str, ...]]
    programs: tuple[str, ...]

    def users(self, header: str) -> frozenset[str]:
        """Return all files, of any kind, that include `header`, or a file that is generated from it, at any depth."""
        programs = set(self.programs)
        generated = {name for names in self.made.values() for name in names}
        found: set[str] = set()
        pending = [header]
        while pending:
            current = pending.pop()
            direct = set(self.resolved.get(current, ()))
            if current == header or current in programs:
                direct.update(self.made.get(current, ()))
            if current in _FORCED:
                direct.update(*self.resolved.values())
            for includer, name in self.unresolved.get(posixpath.basename(current), ()):
                if f"/{current}".endswith(f"/{name}"):
                    direct.add(includer)
            fresh = direct - found
            found |= fresh
            pending.extend(one for one in fresh if one.endswith(".h") or one in programs or one in generated)
        return frozenset(found - {header})

    def remade(self, header: str) -> frozenset[str]:
        """Return the files that see a generated file which changes with `header`, also if they use no name of it."""
        inputs = {header, *self.users(header).intersection(self.programs)}
        files = {name for one in inputs for name in self.made.get(one, ())}
        return frozenset(files).union(*(self.users(name) for name in files))


def read_includes(
    lines: Iterable[str],
    exists: frozenset[str],
    made: Mapping[str, tuple[str, ...]] | None = None,
    programs: Collection[str] = (),
) -> Includes:
    """Return the includers from lines `file:#include ...`, or `file:#define NAME <...>`, which counts as one.

    `exists` are all headers of the tree, and all generated files; `made` and `programs` are as in Includes.
    """
    resolved: dict[str, set[str]] = defaultdict(set)
    unresolved: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        includer, quote, name = found.groups()
        places = [posixpath.dirname(includer)] if quote == '"' else []
        for place in (*places, *_ROOTS):
            path = posixpath.normpath(posixpath.join(place, name))
            if path in exists:
                resolved[path].add(includer)
                break
        else:
            # The directory's Makefile has a search path for it, which is not known here. So "../" at the start of the
            # name has no meaning either.
            unresolved[posixpath.basename(name)].add((includer, re.sub(r"^(\.\./)+", "", name)))
    return Includes(
        {path: tuple(sorted(includers)) for path, includers in resolved.items()},
        {name: tuple(sorted(pairs)) for name, pairs in unresolved.items()},
        dict(made or {}),
        tuple(sorted(programs)),
    )


def absent(includes: Includes, files: Iterable[str]) -> dict[str, list[str]]:
    """Return the includers of each name that no file of the tree has: a file that make generates may have it."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in files:
        places[posixpath.basename(path)].append(path)
    found: dict[str, list[str]] = defaultdict(list)
    for last, pairs in includes.unresolved.items():
        for includer, name in pairs:
            if not any(f"/{path}".endswith(f"/{name}") for path in places.get(last, ())):
                found[name].append(includer)
    return found
