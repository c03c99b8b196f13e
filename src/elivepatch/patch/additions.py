# SPDX-License-Identifier: GPL-2.0-or-later
"""Source files that a series adds, and their way into the kernel: another source includes them, or they are objects.

A makefile is a program, so a series must not edit one. One edit is allowed: a line that only lists new objects
(Documentation/kbuild/makefiles.rst, "The kbuild files").
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from unidiff.patch import PatchedFile

from elivepatch.model.series import PatchSeries
from elivepatch.patch.parse import FileKind, TouchedFile, read_diff

_MAKEFILES = {"Makefile", "Kbuild"}
_OBJECTS = re.compile(
    r"(?P<list>[A-Za-z0-9_][A-Za-z0-9_-]*)-(?:y|objs|\$\(CONFIG_[A-Z0-9_]+\))[ \t]*[:+]="
    r"(?P<objects>(?:[ \t]*[A-Za-z0-9_][A-Za-z0-9_-]*\.o)+)[ \t]*\n"
)
# Lists that hold no objects of the kernel: flags of its tools, programs of the build, further targets.
_NO_OBJECTS = re.compile(r".*flags|.*flags-.*|hostprogs|userprogs|always|extra|targets|subdir")
_INCLUDE = re.compile(r"""[ \t]*#[ \t]*include[ \t]+["<](?P<name>[^">]+\.c)[">]""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """New sources of a series by their way into the kernel.

    `objects` are compiled on their own because a new line of one of `makefiles` lists them. `included` are the file
    names of sources for which the series adds an #include line.
    """

    makefiles: frozenset[str] = frozenset()
    objects: frozenset[str] = frozenset()
    included: frozenset[str] = frozenset()


def read_additions(series: PatchSeries, touched: Sequence[TouchedFile]) -> Additions:
    """Return the additions of a series that `read_series` has accepted; `touched` is its result."""
    added = {file.path for file in touched if file.kind is FileKind.SOURCE and file.added}
    if not added:
        return Additions()
    candidates = {
        file.path
        for file in touched
        if posixpath.basename(file.path) in _MAKEFILES and not file.added and not file.removed
    }
    objects: dict[str, set[str]] = {path: set() for path in candidates}
    included = set()
    for patch in series.patches:
        for file in read_diff(patch.content.decode()):
            path = file.target_file.partition("/")[2]
            if path in objects:
                listed = _listed(file, posixpath.dirname(path))
                if listed is None or not listed <= added:
                    del objects[path]
                else:
                    objects[path] |= listed
            included |= {
                posixpath.basename(found["name"])
                for hunk in file
                for line in hunk
                if line.is_added and (found := _INCLUDE.match(line.value))
            }
    return Additions(
        makefiles=frozenset(objects),
        objects=frozenset().union(*objects.values()),
        included=frozenset(included),
    )


def _listed(file: PatchedFile, directory: str) -> set[str] | None:
    """Return the sources of the objects that a makefile's new lines list, None if it changes in any other way."""
    listed = set()
    for line in (line for hunk in file for line in hunk):
        if line.is_removed:
            return None
        if line.is_added:
            found = _OBJECTS.fullmatch(line.value)
            if found is None or _NO_OBJECTS.fullmatch(found["list"]):
                return None
            listed |= {posixpath.join(directory, f"{name[:-2]}.c") for name in found["objects"].split()}
    return listed
