# SPDX-License-Identifier: GPL-2.0-or-later
"""Selection of the part of a series that can become a livepatch, as a diff with a/ and b/ before its names.

Fixes come with a self-test, documentation or the same change for other architectures. No part of this kernel is made
from those files, and they often do not apply to its source, so they are left out if anything else is in the series.
`git diff --no-prefix` leaves out a/ and b/; the names are then read from the top of the kernel tree, if only that
reading fits the tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from unidiff.patch import PatchedFile, PatchSet

from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.parse import (
    MALFORMED,
    NOT_OF_THE_KERNEL,
    NOWHERE,
    TouchedFile,
    is_inside,
    kind_of,
    read_diff,
    read_series,
)
from elivepatch.patch.places import ReadSource, path_of

# Directories at the top of the kernel tree, of all versions.
_TOP = frozenset(
    ("arch", "block", "certs", "crypto", "Documentation", "drivers", "fs", "include", "init", "io_uring", "ipc",
     "kernel", "lib", "mm", "net", "rust", "samples", "scripts", "security", "sound", "tools", "usr", "virt")
)  # fmt: skip
_GIT = re.compile(r"(?:index|old mode|new mode|new file mode|deleted file mode|rename|copy|(?:dis)?similarity) ")
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Selection:
    """A series to apply, the files that it touches, and notes about what differs from the series that was sent."""

    series: PatchSeries
    touched: tuple[TouchedFile, ...]
    notes: tuple[Note, ...]


def select(series: PatchSeries, read: ReadSource) -> Selection:
    """Return what is to be applied of a series; `read` gives the files of the kernel's source.

    A series without change has the same bytes. Raises BuildStopped as `read_series` does, and for names without a/ and
    b/ that do not fit the source, or that fit in two ways.
    """
    prefixed, notes = with_prefixes(series, read)
    touched = read_series(prefixed)
    out = [file.path for file in touched if file.kind in NOT_OF_THE_KERNEL]
    if not out or len(out) == len(touched):
        return Selection(prefixed, touched, notes)
    kept = [patch for one in prefixed.patches if (patch := _without_others(one)) is not None]
    remaining = PatchSeries(tuple(kept))
    touched = read_series(remaining)
    left_out = [path for path in out if path not in {file.path for file in touched}]
    more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
    message = f"No part of this kernel is made from these files, which were left out: {', '.join(left_out[:_SHOWN])}"
    return Selection(remaining, touched, (*notes, Note(code="not-kernel", message=f"{message}{more}.")))


def with_prefixes(series: PatchSeries, read: ReadSource) -> tuple[PatchSeries, tuple[Note, ...]]:
    """Return a series with a/ and b/ before all names, and notes about the patches that had none.

    A patch that cannot be read stays as it is.
    """
    patches, notes = list[SourcePatch](), list[Note]()
    added: set[str] = set()

    def exists(path: str) -> bool:
        return path in added or read(path) is not None

    for patch in series.patches:
        try:
            files = read_diff(patch.content.decode())
        except MALFORMED:
            files = PatchSet("")
        if names := _bare_names(patch, files, exists):
            message = f"{patch.name} has no a/ and b/ before its names: they were read from the top of the source."
            notes.append(Note(code="no-prefix", message=message))
            patch = replace(patch, content="".join(_rendered(file, bare=True) for file in files).encode())
            added |= names
        else:
            added |= {path_of(file.target_file) for file in files}
        patches.append(patch)
    return PatchSeries(tuple(patches)) if notes else series, tuple(notes)


def _bare_names(patch: SourcePatch, files: PatchSet, exists: Callable[[str], bool]) -> set[str]:
    """Return the names of a diff if they are paths from the top of the tree; empty if they have a prefix.

    Raises BuildStopped if they are neither, or can be both.
    """
    old = {file.source_file for file in files} - {NOWHERE}
    names = old | {file.target_file for file in files} - {NOWHERE}
    if not all(is_inside(name) and ("/" not in name or name.partition("/")[0] in _TOP) for name in names):
        return set()
    full = {name for name in old if exists(name)}
    inner = {name for name in old if exists(path_of(name))}
    if not old:
        inner = full = {name for name in names if path_of(name).partition("/")[0] in _TOP}
    if inner and full:
        name = min(inner | full)
        sentence = f"{patch.name} names {name}, which is {path_of(name)} if {name.partition('/')[0]}/ is a prefix."
        raise BuildStopped(problem("patch-path", sentence))
    if inner or not any("/" in name for name in names):
        return set()
    if missing := sorted(old - full):
        sentence = f"{patch.name} has no a/ and b/ before its names, and this kernel's source has no {missing[0]}."
        raise BuildStopped(problem("does-not-apply", sentence, excerpt="\n".join(missing)))
    return names


def _without_others(patch: SourcePatch) -> SourcePatch | None:
    """Return a patch without the files that are not of the kernel, None if nothing is left."""
    files = read_diff(patch.content.decode())
    kept = [file for file in files if not {kind_of(path) for path in _paths(file)} <= NOT_OF_THE_KERNEL]
    if len(kept) == len(files):
        return patch
    return replace(patch, content="".join(map(_rendered, kept)).encode()) if kept else None


def _paths(file: PatchedFile) -> Iterator[str]:
    return (path_of(name) for name in (file.source_file, file.target_file) if name != NOWHERE)


def _rendered(file: PatchedFile, *, bare: bool = False) -> str:
    """Return the diff of one file; `bare` names get a/ and b/. Words between diffs are left out."""
    source, target = (
        f"{side}/{name}" if bare and name != NOWHERE else name
        for side, name in (("a", file.source_file), ("b", file.target_file))
    )
    lines = [str(line) for line in file.patch_info or ()]
    header = [line for line in lines if _GIT.match(line)]
    if any(line.startswith("diff --git ") for line in lines):
        old = source if source != NOWHERE else f"a/{path_of(target)}"
        new = target if target != NOWHERE else f"b/{path_of(source)}"
        header.insert(0, f"diff --git {old} {new}\n")
    if file:
        header.append(f"--- {source}\n+++ {target}\n")
    return "".join([*header, *map(str, file)])
