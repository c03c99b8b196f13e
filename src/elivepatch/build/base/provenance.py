# SPDX-License-Identifier: GPL-2.0-or-later
"""Origin of a base's kernel: its materials, the files of its tree, its distribution's version and changelog."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from elivepatch.build.base.store import Base
from elivepatch.build.roots.description import Toolchain
from elivepatch.model.kernel import Digest
from elivepatch.model.provenance import BASE, BASE_INPUT, CONFIGURATION, TOOLCHAIN, Material
from elivepatch.process import run

_CHANGELOG = "changelog.gz"
_CHANGELOG_MAX = 64 * 1024 * 1024  # Debian's has 4 MiB
_SUFFIXES = (".c", ".S", ".rs")
_NOT_THE_KERNEL = frozenset({"Documentation", "tools", "samples", "scripts", "usr"})


def source_files(base: Base) -> Iterator[str]:
    """Yield the path of every file of the tree that could be compiled into the kernel, sorted by directory."""
    top = os.fspath(base.tree)
    for directory, directories, names in os.walk(top):
        inside = os.path.relpath(directory, top)
        directories.sort()
        if inside == ".":
            directories[:] = [name for name in directories if name not in _NOT_THE_KERNEL]
            continue
        for name in sorted(names):
            if name.endswith(_SUFFIXES) and not name.endswith(".mod.c"):
                yield f"{inside}/{name}"


def materials_of(base: Base, helper: Toolchain) -> tuple[Material, ...]:
    """Return what a livepatch for a base is made from besides its series; `helper` has kpatch's tools."""
    toolchains = {base.toolchain_digest: base.toolchain, helper.digest: helper.name}
    return (
        Material(kind=CONFIGURATION, name=base.release, digest=base.config_digest),
        Material(kind=BASE, name=base.release, digest=base.digest),
        *(Material(kind=BASE_INPUT, name=name, digest=Digest(one)) for name, one in sorted(base.packages.items())),
        *(Material(kind=TOOLCHAIN, name=name, digest=digest) for digest, name in toolchains.items()),
    )


def package_version(base: Base) -> str:
    """Return the version of the distribution package that the base's source comes from, empty if there is none."""
    if base.kind == "stock":
        return base.version
    named = (name.partition("_") for name in base.packages if name.startswith("linux-source-"))
    return next((version for _, _, version in named), "")


def keep_changelog(package: Path, into: Path) -> None:
    """Keep the changelog of a package in the directory of a base: the package itself does not stay.

    Each of a kernel's packages has it. Raises EnvironmentFault if the package cannot be read.
    """
    packed = _packed_changelog(package)
    if packed is not None:
        (into / _CHANGELOG).write_bytes(packed)


def distribution_changelog(base: Base) -> str | None:
    """Return the changelog of the packages that a base was made from, None if they had none or it is damaged."""
    try:
        with gzip.open(base.directory / _CHANGELOG) as file:
            return file.read(_CHANGELOG_MAX).decode(errors="replace")
    except (OSError, EOFError, zlib.error):
        return None


def _packed_changelog(package: Path) -> bytes | None:
    unpacked = run(["dpkg-deb", "--fsys-tarfile", package]).check("Reading a package").output
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as members:
        for member in members:
            names = member.name.split("/")
            if names[-1] in {"changelog.Debian.gz", "changelog.gz"} and "doc" in names and member.isfile():
                file = members.extractfile(member)
                return file.read(_CHANGELOG_MAX) if file is not None else None
    return None
