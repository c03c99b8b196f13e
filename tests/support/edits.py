# SPDX-License-Identifier: GPL-2.0-or-later
"""Source patches made by replacing text in a kernel's source, so that one edit fits many kernels."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.headings import with_headings


class Edit(NamedTuple):
    """Replacement of `old`, which must occur exactly once in the file `path` of the tree, by `new`."""

    path: str
    old: str
    new: str


def before(path: str, anchor: str, added: str) -> Edit:
    """Insert text before an anchor."""
    return Edit(path, anchor, added + anchor)


def after(path: str, anchor: str, added: str) -> Edit:
    """Insert text after an anchor."""
    return Edit(path, anchor, anchor + added)


def patch_of(tree: Path, *edits: Edit) -> str:
    """Return the diff that makes the edits, as git diff would."""
    old = {path: _text(tree / path) for path in dict.fromkeys(edit.path for edit in edits)}
    new = dict(old)
    for edit in edits:
        count = new[edit.path].count(edit.old)
        assert count == 1, f"{edit.path} has {edit.old!r} {count} times"
        new[edit.path] = new[edit.path].replace(edit.old, edit.new)
    return "".join(
        line
        for path in old
        for line in with_headings(
            difflib.unified_diff(_lines(old[path]), _lines(new[path]), f"a/{path}", f"b/{path}"), _lines(old[path])
        )
    )


def series_of(*patches: str | bytes) -> PatchSeries:
    """Return a series of patches called 0.patch, 1.patch and so on."""
    contents = [patch.encode() if isinstance(patch, str) else patch for patch in patches]
    return PatchSeries(tuple(SourcePatch(f"{n}.patch", content) for n, content in enumerate(contents)))


def _text(path: Path) -> str:
    return path.read_bytes().decode("latin-1")


def _lines(text: str) -> list[str]:
    return [f"{line}\n" for line in text.removesuffix("\n").split("\n")]
