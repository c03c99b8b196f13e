# SPDX-License-Identifier: GPL-2.0-or-later
"""Application of a series to one kernel's source, which stays unchanged.

The result is a layer: a directory with only the changed files, which compilers see on top of the base's tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox, writable_directory
from elivepatch.build.sandbox.output import source_text, take
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, EnvironmentFault, Problem
from elivepatch.model.series import PatchSeries
from elivepatch.patch.intent import misplaced
from elivepatch.patch.lines import preserve, read_changes
from elivepatch.patch.parse import FileKind, TouchedFile
from elivepatch.patch.places import follow
from elivepatch.patch.reverse import is_there
from elivepatch.process import Cancellation, Completed

_FILE_LIMIT_BYTES = 64 << 20
_LINES_KEPT = {FileKind.SOURCE, FileKind.HEADER}
_PATCHED = re.compile(r"patching file '?(.+?)'?(?: \((?:renamed|copied) from .*\))?$")
_REFUSED = re.compile(r"(?:already|repeated|half|failed) /in/\d{5}\.patch$", re.ASCII)
_ALREADY, _REPEATED, _HALF = 4, 5, 6
_REFUSALS = {3, _ALREADY, _REPEATED, _HALF}
_APPLY = r"""
set -u
mkdir -p /tmp/old /out/layer /out/changes
for file; do [ ! -e "$file" ] || cp --parents -- "$file" /tmp/old; done
forward() { patch --batch --forward -p1 --fuzz=0 --no-backup-if-mismatch --reject-file=- --input="$@"; }
back() { for file; do rm -f -- "$file"; [ ! -e "/tmp/old/$file" ] || cp -- "/tmp/old/$file" "$file"; done; }
before() { for each in /in/*.patch; do [ "$each" != "$one" ] || break; forward "$each" >/dev/null 2>&1; done; }
# Not --batch, with which patch(1) ignores --reverse if the change is not there.
has() { patch --force --reverse -p1 --fuzz=0 --dry-run --reject-file=- --input="$one" >/dev/null 2>&1; }
for one in /in/*.patch; do
    forward "$one" >/tmp/said 2>&1 || {
        # patch(1) has changed what it could. Only the files as they were before it show what they had.
        back "$@"; how=failed status=3
        if has; then
            how=already status=4
        elif before; has; then
            how=repeated status=5
        elif forward "$one" --dry-run 2>&1 | grep -q 'previously applied'; then
            how=half status=6
        fi
        echo "$how $one"; cat /tmp/said; exit "$status"
    }
    grep '^patching file ' /tmp/said
done
for file; do
    [ -f "$file" ] || continue
    cp --parents -- "$file" /out/layer
    mkdir -p "/out/changes/$(dirname -- "$file")"
    [ -f "/tmp/old/$file" ] || : >/tmp/empty
    diff -U0 -- "$([ -f "/tmp/old/$file" ] && echo "/tmp/old/$file" || echo /tmp/empty)" "$file" >"/out/changes/$file"
done
exit 0
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """A patched layer. `layer` holds the changed files at their paths; sources keep their old line numbers."""

    layer: Path


def apply_series(
    series: PatchSeries,
    touched: Sequence[TouchedFile],
    *,
    tree: Path,
    sandbox: Sandbox,
    work_dir: Path,
    cancellation: Cancellation | None = None,
) -> Applied:
    """Apply `series` over `tree` and return the layer, made below `work_dir`.

    Raises BuildStopped with `does-not-apply`, `already-applied` or `patch-repeated`; with `hunk-place` if a hunk may
    have another place than its author meant.
    """
    inputs, output = work_dir / "series", work_dir / "applied"
    inputs.mkdir()
    for number, patch in enumerate(series.patches):
        (inputs / f"{number:05}.patch").write_bytes(patch.content)
    writable_directory(output)
    done = sandbox.run(
        ["sh", "-c", _APPLY, "sh", *[file.path for file in touched]],
        layers=[tree],
        inputs=inputs,
        output=output,
        cancellation=cancellation,
    )
    if done.status in _REFUSALS:
        raise BuildStopped(_refusal(series, done, tree))
    if not done.ok:
        raise EnvironmentFault("apply", "The series could not be applied.", advice="Read the log.", excerpt=done.tail())
    check_file_names(done.text, touched)
    _check_places(series, tree, output)
    # make writes beside the sources, and only the owner of a lower layer's files can change them.
    layer = writable_directory(work_dir / "layer")
    for file in touched:
        _take_over(file, output, layer)
    return Applied(layer)


def _refusal(series: PatchSeries, done: Completed, tree: Path) -> Problem:
    """Return the problem of the patch that was refused.

    "It is there already" means that nothing has to be done. So it must be there as a whole, in the kernel's own source
    and not only in the patches before it, and in the place that its author meant.
    """
    # The script prints the files of the patches before it first.
    lines = done.text.splitlines()
    at = next(number for number, line in enumerate(lines) if _REFUSED.match(line))
    patch = series.patches[int(lines[at][-len("00000.patch") :][:5])]
    excerpt = "\n".join(line for line in lines[at + 1 :] if line.strip())[:4000]
    if done.status == _REPEATED:
        sentence = f"The patches before {patch.name} make its change already."
        return problem("patch-repeated", sentence, excerpt=excerpt)
    sentence = f"{patch.name} does not apply to this kernel's source"
    if done.status == _ALREADY:
        if is_there(patch, lambda path: source_text(tree, path)):
            return problem("already-applied", f"{patch.name} is already in this kernel's source.")
        sentence += ", which has the same change in another place"
    elif done.status == _HALF:
        sentence += ", which has a part of its change already"
    return problem("does-not-apply", f"{sentence}.", excerpt=excerpt)


def check_file_names(said: str, touched: Sequence[TouchedFile]) -> None:
    """Raise if patch(1) read other file names than we did: a file that one of them misses would silently be lost."""
    named = {found[1] for line in said.splitlines() if (found := _PATCHED.match(line))}
    differing = sorted(named ^ {file.path for file in touched if not file.removed or file.path in named})
    if differing:
        raise BuildStopped(
            problem("patch-malformed", f"The series names a file in a way that can be read as another: {differing[0]}.")
        )


def _check_places(series: PatchSeries, tree: Path, output: Path) -> None:
    """Raise if a hunk is not where its author meant it, or if patch(1) made another text of a file than we do."""
    files = list(follow(series, lambda path: source_text(tree, path)))
    if found := misplaced(files):
        raise BuildStopped(found)
    for path, file in {file.path: file for file in files if file.diff}.items():
        try:
            content = take(output, f"layer/{path}", limit_bytes=_FILE_LIMIT_BYTES)
        except FileNotFoundError:
            continue
        ours = "".join(file.result[0])
        if file.unplaced or content.decode("latin-1").replace("\r\n", "\n") != ours:
            sentence = f"The hunks of {path} can be applied in more than one way."
            raise BuildStopped(problem("patch-malformed", sentence))


def _take_over(file: TouchedFile, output: Path, layer: Path) -> None:
    try:
        content = take(output, f"layer/{file.path}", limit_bytes=_FILE_LIMIT_BYTES)
    except FileNotFoundError:
        return  # The series removes it.
    if file.kind in _LINES_KEPT and not file.added:
        diff = take(output, f"changes/{file.path}", limit_bytes=2 * _FILE_LIMIT_BYTES)
        # Latin-1 maps every byte to itself, so that sources of any encoding come out as they went in.
        content = preserve(content.decode("latin-1"), read_changes(diff.decode("latin-1"))).encode("latin-1")
    place = layer / file.path
    for parent in reversed(place.relative_to(layer).parents):
        if not (layer / parent).exists():
            writable_directory(layer / parent)
    place.write_bytes(content)
    os.chown(place, BUILD_UID, BUILD_UID)
