# SPDX-License-Identifier: GPL-2.0-or-later
"""Featuresets: kernels that Debian builds from its source with further patches, such as the real-time kernels.

Only the source package has these patches, in debian/patches-NAME. A kernel is of a featureset if its headers package
needs the headers that the patched source has in common for all its flavours; a name with -rt in it says nothing: from
7.2 on, Debian builds such kernels from the unpatched source.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.build.archive.apt import Archive, Package
from elivepatch.build.archive.source_package import fetch_changes
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take
from elivepatch.files.digest import sha256, sha256_file
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.progress import Progress, silent

_COMMON = re.compile(r"(?:^|[ ,|])linux-headers-[^ ,]+-common-([a-z0-9]+)(?=[ ,]|$)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*(?:/[A-Za-z0-9][A-Za-z0-9+._-]*)*")
_SERIES_LIMIT_BYTES = 1 << 20
_PATCH_LIMIT_BYTES = 16 << 20
_PATCHES_LIMIT = 2000
# As Debian applies them: in order, and no line around a change may differ.
_APPLY = """
for name; do
    echo "$name"
    patch --batch --forward --silent -p1 --fuzz=0 --remove-empty-files --no-backup-if-mismatch --reject-file=- \
        -i "/in/$name" || exit
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Featureset:
    """The patches of a featureset, in the order of `series`, below `directory`; without a name there are none.

    `inputs` has the archive that they came in and each patch by name, with their SHA-256.
    """

    name: str = ""
    directory: Path | None = None
    series: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)

    def apply(self, tree: Path, sandbox: Sandbox) -> None:
        """Apply the patches to a tree, as Debian did. Raises EnvironmentFault if one does not apply."""
        if not self.series:
            return
        command = ["sh", "-c", _APPLY, "sh", *self.series]
        done = sandbox.run(command, inputs=self.directory, writable=tree)
        if not done.ok:
            begun = [line for line in done.text.splitlines() if line in self.series]
            raise _refused(
                f"The patch {begun[-1] if begun else self.series[0]} of Debian's {self.name} kernels does not apply to "
                "the source of this kernel.",
                done.tail(),
            )


def featureset_of(headers: Package) -> str:
    """Return the name of a kernel's featureset, such as `rt`, by its headers package; empty if it has none."""
    found = _COMMON.search(headers.depends)
    return found[1] if found is not None else ""


def fetch_featureset(
    name: str, archive: Archive, source: Package, sandbox: Sandbox, scratch: Path, progress: Progress = silent
) -> Featureset:
    """Return the patches of the featureset `name`, put into the new directory `scratch`.

    They are those of the source package that `source`, the package with the kernel's source, was made from. Raises
    EnvironmentFault with the code `featureset-patches` if that has none, and as `fetch_changes` does.
    """
    file, path = fetch_changes(archive, source, progress)
    scratch.mkdir()
    scratch.chmod(0o755)
    (scratch / "in").mkdir()
    shutil.copyfile(path, scratch / "in" / file)
    output = writable_directory(scratch / "out")
    place = f"debian/patches-{name}"
    command = ["tar", "-x", "-f", f"/in/{file}", "--no-same-permissions", "-C", "/out", place]
    done = sandbox.run(command, inputs=scratch / "in", output=output)
    if not done.ok:
        raise _refused(f"{place}, with which this kernel was built, cannot be unpacked from {file}.", done.tail())
    inputs = {file: sha256_file(path)}
    series = read_series(_taken(output, f"{place}/series", _SERIES_LIMIT_BYTES), place)
    for one in series:
        inputs[f"{place}/{one}"] = sha256(_taken(output, f"{place}/{one}", _PATCH_LIMIT_BYTES))
    return Featureset(name=name, directory=output / place, series=series, inputs=inputs)


def read_series(content: bytes, place: str) -> tuple[str, ...]:
    """Return the names of the patches in a series file of the directory `place`, in the order in which they apply.

    Raises EnvironmentFault for an empty series, and for a line that is more than a name, perhaps with -p1, and a
    comment.
    """
    names = []
    for line in content.decode(errors="replace").split("\n"):
        words = re.sub(r"(?:^|[ \t])#.*", "", line).split()
        if not words:
            continue
        if not _NAME.fullmatch(words[0]) or words[1:] not in ([], ["-p1"]) or words[0] in names:
            raise _refused(f"{place}/series has a line that is not understood: {line[:100]!r}.")
        names.append(words[0])
    if not 0 < len(names) <= _PATCHES_LIMIT:
        raise _refused(f"{place}/series names {len(names)} patches.")
    return tuple(names)


def _taken(directory: Path, name: str, limit_bytes: int) -> bytes:
    try:
        return take(directory, name, limit_bytes=limit_bytes)
    except FileNotFoundError:
        raise _refused(f"The source package of this kernel has no {name}.") from None


def _refused(message: str, excerpt: str = "") -> EnvironmentFault:
    return EnvironmentFault(
        "featureset-patches",
        message,
        advice="No base of this kernel can be made; take another version of it, and report this one.",
        excerpt=excerpt,
    )
