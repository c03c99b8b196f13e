# SPDX-License-Identifier: GPL-2.0-or-later
"""Reversal of a source patch, to find out if a source has its change already."""

from __future__ import annotations

from collections.abc import Iterator

from unidiff.patch import Hunk, PatchedFile

from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.intent import misplaced
from elivepatch.patch.parse import read_diff
from elivepatch.patch.places import ReadSource, follow

_SWAPPED = {"+": "-", "-": "+"}


def is_there(patch: SourcePatch, read: ReadSource) -> bool:
    """Return if a source has the whole change of a patch, each hunk in the place that its author meant.

    Raises BuildStopped with `patch-too-large` if the patch has too many places to look at.
    """
    files = list(follow(PatchSeries((reverse(patch),)), read))
    return all(file.unplaced is None for file in files) and misplaced(files) is None


def reverse(patch: SourcePatch) -> SourcePatch:
    """Return the patch that takes back what a patch does."""
    # The last change of a file is taken back first.
    parts = [line for file in reversed(read_diff(patch.content.decode())) for line in _file(file)]
    return SourcePatch(patch.name, "".join(parts).encode())


def _file(file: PatchedFile) -> Iterator[str]:
    yield f"--- {file.target_file}\n+++ {file.source_file}\n"
    for hunk in file:
        yield from _hunk(hunk)


def _hunk(hunk: Hunk) -> Iterator[str]:
    heading = f" {hunk.section_header}" if hunk.section_header else ""
    yield (f"@@ -{hunk.target_start},{hunk.target_length} +{hunk.source_start},{hunk.source_length} @@{heading}\n")
    for line in hunk:
        yield f"{_SWAPPED.get(line.line_type, line.line_type)}{line.value}"
