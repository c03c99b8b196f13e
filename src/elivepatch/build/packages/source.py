# SPDX-License-Identifier: GPL-2.0-or-later
"""Source of a kernel out of the packages of a directory, tied to the kernel's packages by what they say themselves.

An RPM names its source RPM. A .deb has the version of its source: a package linux-source, or a .dsc, of the version of
the package with the image. The source RPM is prepared by rpmbuild, whose %prep says which patches the kernel has.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.packages.layout import plain_name
from elivepatch.build.packages.reader import UNPACKED_LIMIT_BYTES, Listing, Package, PackageReader
from elivepatch.build.packages.tools import ENVIRONMENT, tool
from elivepatch.build.sandbox.bubblewrap import writable_directory
from elivepatch.build.sandbox.output import files_below, take, take_file
from elivepatch.build.sandbox.watched import run_watched
from elivepatch.model.errors import UsageError

_TARBALL = re.compile(r"usr/src/linux-source-[0-9.]+\.tar\.(?:xz|gz|bz2)")
_VERSION = re.compile(r"^Version: (\S+)$", re.MULTILINE)
_LIMIT_BYTES = 2 << 30
_DSC_LIMIT_BYTES = 1 << 20
_LIMIT_FILES = 400_000
_PREPARE_TIMEOUT_S = 1800.0
# The spec names the tree; it is the only directory with this file.
_PREPARE = """
set -e
"$@"
cd /out/BUILD
set -- $(find . -maxdepth 5 -type f -path '*/kernel/fork.c')
if [ $# != 1 ]; then
    echo "%prep leaves $# directories with kernel/fork.c" >&2
    exit 1
fi
tree=${1%/kernel/fork.c}
tar -c -f /out/source.tar --owner=0 --group=0 --sort=name -C "${tree%/*}" "${tree##*/}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSource:
    """Source of a kernel. `named` is for `kernel_source.fetch_source`; `package` is the file that it came from."""

    named: str
    package: str
    built_in: bool = False


def find_source(
    reader: PackageReader, listing: Listing, packages: Iterable[Package], scratch: Path
) -> FoundSource | None:
    """Return the source of the kernel that these packages hold, None if no package of the directory has it.

    `scratch` is a new directory. Raises UsageError if the source's package is damaged.
    """
    scratch.mkdir()
    chosen = [*packages]
    wanted = {package.source for package in chosen if package.source}
    for package in listing.packages:
        if package.is_source and package.source in wanted:
            return _of_source_rpm(reader, package, scratch)
    versions = {package.version for package in chosen if package.version}
    for package in listing.packages:
        tarballs = [name for name in package.names if _TARBALL.fullmatch(plain_name(name))]
        if tarballs and package.version in versions:
            return _of_source_deb(reader, package, tarballs, scratch)
    return _of_dsc(reader.directory, listing.others, versions)


def _of_source_deb(reader: PackageReader, package: Package, tarballs: Sequence[str], scratch: Path) -> FoundSource:
    raw = scratch / "raw"
    reader.unpack(package.path, [plain_name(name) for name in tarballs], raw)
    taken = [take_file(raw, name, scratch / Path(name).name, limit_bytes=_LIMIT_BYTES) for name in files_below(raw)]
    shutil.rmtree(raw)
    if len(taken) != 1:
        raise UsageError(
            "packages-source",
            f"The package {package.path} holds {len(taken)} archives of a kernel's source, not one.",
            advice="Declare the source in the file of the setting `sources`, or give it with --source.",
        )
    return FoundSource(named=str(taken[0]), package=package.path)


def _of_dsc(directory: Path, others: Iterable[str], versions: set[str]) -> FoundSource | None:
    for name in others:
        if name.endswith(".dsc"):
            text = take(directory, name, limit_bytes=_DSC_LIMIT_BYTES).decode(errors="replace")
            found = _VERSION.search(text)
            if found is not None and found[1] in versions:
                return FoundSource(named=str(directory / name), package=name)
    return None


def _of_source_rpm(reader: PackageReader, package: Package, scratch: Path) -> FoundSource:
    output = writable_directory(scratch / "prepared")
    macros = {
        "_topdir": "/out",
        "_tmppath": "/tmp",  # noqa: S108 - the sandbox's own
        "_dbpath": "/tmp/rpm",  # noqa: S108
        "__rpmuncompress": " ".join(tool("rpmuncompress")),
    }
    defined = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    command = [*tool("rpmbuild"), "-rp", "--nodeps", "--nosignature", *defined, f"/in/{package.path}"]
    done = run_watched(
        output,
        lambda watch: reader.helper.run(
            ["bash", "-c", _PREPARE, "bash", *command], inputs=reader.directory, output=output, tools=reader.tools,
            env=ENVIRONMENT, timeout_s=_PREPARE_TIMEOUT_S, on_tick=watch[0], cancellation=watch[1],
        ),
        limit_bytes=UNPACKED_LIMIT_BYTES,
        limit_files=_LIMIT_FILES,
    )  # fmt: skip
    if done is None or not done.ok:
        raise UsageError(
            "packages-source",
            f"The source RPM {package.path} cannot be prepared: its %prep fails, or leaves no source of a kernel.",
            advice="Declare the source in the file of the setting `sources`, or give it with --source.",
            excerpt=done.tail() if done is not None else "It wrote more than any source of a kernel has.",
        )
    source = take_file(output, "source.tar", scratch / "source.tar", limit_bytes=_LIMIT_BYTES)
    shutil.rmtree(output)
    # %prep may leave a configuration in the tree.
    return FoundSource(named=str(source), package=package.path, built_in=True)
