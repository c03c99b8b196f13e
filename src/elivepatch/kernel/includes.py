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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_LINE = re.compile(r"""([^:]+):\s*#\s*include\s+(["<])([^">]+)[">]""")
_FORCED = frozenset({"include/linux/compiler-version.h", "include/linux/compiler_types.h", "include/linux/kconfig.h"})
"""Headers that the kernel's Makefile includes into every file by a compiler option, without an #include line."""

_ROOTS = ("include", "arch/x86/include", "include/uapi", "arch/x86/include/uapi")


@dataclass(frozen=True, slots=True)
class Includes:
    """Includers of each header: `resolved` by its path, `unresolved` by the last part of the name in the line."""

    resolved: Mapping[str, tuple[str, ...]]
    unresolved: Mapping[str, tuple[tuple[str, str], ...]]

    def users(self, header: str) -> frozenset[str]:
        """Return all files, of any kind, that include `header` at any depth."""
        found: set[str] = set()
        pending = [header]
        while pending:
            current = pending.pop()
            direct = set(self.resolved.get(current, ()))
            if current in _FORCED:
                direct.update(*self.resolved.values())
            for includer, name in self.unresolved.get(posixpath.basename(current), ()):
                if f"/{current}".endswith(f"/{name}"):
                    direct.add(includer)
            fresh = direct - found
            found |= fresh
            pending.extend(one for one in fresh if one.endswith(".h"))
        return frozenset(found - {header})


def read_includes(lines: Iterable[str], exists: frozenset[str]) -> Includes:
    """Return the includers from lines `file:#include ...`; `exists` are all headers of the tree."""
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
    )
