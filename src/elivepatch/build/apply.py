# SPDX-License-Identifier: GPL-2.0-or-later
"""Applying a series to exactly one kernel's source, without touching that source.

The outcome is a layer: a directory with only the changed files, which compilers see on top of the base's tree.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.sandbox import BUILD_UID, Sandbox
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, EnvironmentFault
from elivepatch.model.series import PatchSeries
from elivepatch.patch.lines import preserve, read_changes
from elivepatch.patch.parse import FileKind, TouchedFile
from elivepatch.process import Cancellation

_APPLY = r"""
set -u
mkdir -p /tmp/old /out/layer /out/changes
for file; do [ ! -e "$file" ] || cp --parents -- "$file" /tmp/old; done
for one in /in/*.patch; do
    patch --batch --forward -p1 --fuzz=0 --no-backup-if-mismatch --reject-file=- --input="$one" >/tmp/said 2>&1 || {
        if patch --batch --reverse -p1 --fuzz=0 --dry-run --reject-file=- --input="$one" >/dev/null 2>&1; then
            echo "already $one"; exit 4
        fi
        echo "failed $one"; cat /tmp/said; exit 3
    }
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
    """A patched layer. `layer` holds the changed files at their places; sources keep their old line numbers."""

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

    Raises BuildStopped with `does-not-apply` or `already-applied`.
    """
    inputs, output = work_dir / "series", work_dir / "applied"
    inputs.mkdir()
    for number, patch in enumerate(series.patches):
        (inputs / f"{number:05}.patch").write_bytes(patch.content)
    output.mkdir()
    os.chown(output, BUILD_UID, BUILD_UID)
    done = sandbox.run(
        ["sh", "-c", _APPLY, "sh", *[file.path for file in touched]],
        layers=[tree],
        inputs=inputs,
        output=output,
        cancellation=cancellation,
    )
    if done.status in {3, 4}:
        first, _, rest = done.text.partition("\n")
        name = series.patches[int(first.split("/")[-1].removesuffix(".patch"))].name
        if done.status == 4:
            raise BuildStopped(problem("already-applied", f"{name} is already in this kernel's source."))
        excerpt = "\n".join(line for line in rest.splitlines() if line.strip())[:4000]
        raise BuildStopped(
            problem("does-not-apply", f"{name} does not apply to this kernel's source.", excerpt=excerpt)
        )
    if not done.ok:
        raise EnvironmentFault(
            "apply", "The series could not be applied.", advice="Look at the log.", excerpt=done.tail()
        )
    layer = output / "layer"
    for file in touched:
        if file.kind is FileKind.SOURCE and (layer / file.path).is_file() and not file.added:
            _keep_lines(layer / file.path, output / "changes" / file.path)
    return Applied(layer)


def _keep_lines(source: Path, diff: Path) -> None:
    # Latin-1 maps every byte to itself, so that sources of any encoding come out as they went in.
    changes = read_changes(diff.read_text(encoding="latin-1"))
    content = source.read_bytes().decode("latin-1")
    source.unlink()
    source.write_bytes(preserve(content, changes).encode("latin-1"))
    source.chmod(0o644)
