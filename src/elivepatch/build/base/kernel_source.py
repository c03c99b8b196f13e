# SPDX-License-Identifier: GPL-2.0-or-later
"""Source of a custom kernel: a directory, a tag of a git repository, an archive, or a package.

Each becomes a tar archive with one top directory, which only programs in the sandbox unpack.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.archive.apt import Archive
from elivepatch.files.digest import sha256, sha256_file
from elivepatch.model.errors import UsageError
from elivepatch.model.progress import Progress
from elivepatch.process import run

_PACKAGE = re.compile(r"(?P<name>linux-source-[0-9]+\.[0-9]+)(?:=(?P<version>[A-Za-z0-9.+~:-]+))?")
_TARBALL = re.compile(r"\.tar(?:\.(?:xz|gz|bz2|zst))?$|\.tgz$")
_LISTED = re.compile(r"^ ([0-9a-f]{64}) [0-9]+ ([A-Za-z0-9][A-Za-z0-9+.:~_-]*)$", re.MULTILINE)
DIFF = ".diff.gz"
"""End of the name of Debian's changes, if they are one diff."""

_LIMIT_BYTES = 4 << 30
# Neither the history nor what was built takes part in what is built from a directory.
_NOT_SOURCE = ("./.git", "*.o", "*.ko", "*.a", "*.cmd", "./vmlinux*")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSource:
    """A kernel's source. `archive` is the tar archive; `packaging` holds Debian's changes if it came as .dsc.

    `package` is the package that it came in, if it did.
    """

    archive: Path
    inputs: Mapping[str, str]
    built_in: bool = False
    packaging: Path | None = None
    package: Path | None = None


def fetch_source(named: str, archive: Archive, scratch: Path, progress: Progress) -> KernelSource:
    """Put the source that the operator named into the directory `scratch`; its `inputs` name it by SHA-256.

    `named` is a directory, `REPOSITORY#TAG`, a tar archive, a .dsc beside its files, or a package such as
    `linux-source-6.12` or `linux-source-6.12=6.12.107-1`. Raises UsageError if it is none of these.
    """
    path, _, tag = named.partition("#")
    place = Path(path).expanduser()
    if tag and place.is_dir():
        return _from_git(place.absolute(), tag, scratch)
    place = Path(named).expanduser()
    if place.is_dir():
        return _from_directory(place.absolute(), scratch)
    if place.is_file() and place.suffix == ".dsc":
        return _from_dsc(place.absolute(), scratch)
    if place.is_file() and _TARBALL.search(place.name):
        kept = scratch / f"source{''.join(_TARBALL.findall(place.name)) or '.tar'}"
        return KernelSource(archive=_copy(place, kept), inputs={f"source {place.name}": sha256_file(kept)})
    if found := _PACKAGE.fullmatch(named):
        return _from_package(found["name"], found["version"], archive, scratch, progress)
    raise UsageError(
        "source-unknown",
        f"{named[:200]} is not the source of a kernel.",
        advice="Give a directory, REPOSITORY#TAG, a tar archive, a .dsc, or a package such as linux-source-6.12.",
    )


def _from_directory(place: Path, scratch: Path) -> KernelSource:
    if not (place / "Kconfig").is_file() or not (place / "Makefile").is_file():
        raise UsageError(
            "source-unknown",
            f"{place} does not hold the source of a kernel: it has no Kconfig and Makefile.",
            advice="Give the top directory of the source tree.",
        )
    packed = scratch / "source.tar"
    excluded = [f"--exclude={pattern}" for pattern in _NOT_SOURCE]
    fixed = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]
    command = ["tar", "-c", "-f", str(packed), *fixed, *excluded, "-C", str(place), "."]
    run(command, timeout_s=1800).check("Reading the source directory")
    return KernelSource(archive=packed, inputs={f"source {place.name}": sha256_file(packed)}, built_in=True)


def _from_git(place: Path, tag: str, scratch: Path) -> KernelSource:
    # A repository's own configuration could name programs; nothing that is read here may start one.
    git = ["git", "-c", f"safe.directory={place}", "-c", "core.fsmonitor=false", "-C", str(place)]
    named = run([*git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{tag}^{{commit}}"])
    commit = named.text.strip()
    if not named.ok or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise UsageError(
            "source-unknown",
            f"The repository {place} has no tag or commit {tag[:100]}.",
            advice="See `git tag`; fetch the tag first if it is missing.",
        )
    packed = scratch / "source.tar"
    command = [*git, "archive", "--format=tar", "--prefix=linux/", f"--output={packed}", commit]
    run(command, timeout_s=1800).check("Reading the git repository")
    return KernelSource(archive=packed, inputs={f"source {tag}": sha256(commit.encode())})


def _from_dsc(place: Path, scratch: Path) -> KernelSource:
    listed = {name: digest for digest, name in _LISTED.findall(place.read_text(encoding="utf-8", errors="replace"))}
    originals = [name for name in listed if ".orig.tar." in name and not name.endswith(".asc")]
    # Format 3.0 has Debian's changes as patches in an archive, format 1.0 as one diff.
    changes = [name for name in listed if ".debian.tar." in name or name.endswith(DIFF)]
    if len(originals) != 1 or len(changes) != 1:
        raise UsageError(
            "source-unknown",
            f"{place.name} does not list one original archive and one archive of Debian's changes.",
            advice="Give the .dsc of a source package of the format 3.0 (quilt) or 1.0, beside its files.",
        )
    taken = []
    for name in (originals[0], changes[0]):
        try:
            kept = _copy(place.parent / name, scratch / name)
        except FileNotFoundError:
            kept = scratch / name
        if not kept.exists() or sha256_file(kept) != listed[name]:
            raise UsageError(
                "source-damaged",
                f"{name} is missing beside {place.name}, or it is not the file that {place.name} names.",
                advice="Fetch the source package again.",
            )
        taken.append(kept)
    return KernelSource(
        archive=taken[0],
        packaging=taken[1],
        inputs={f"source {name}": listed[name] for name in (originals[0], changes[0])},
    )


def _from_package(name: str, version: str | None, archive: Archive, scratch: Path, progress: Progress) -> KernelSource:
    versions = archive.versions(name)
    found = next((one for one in versions if version in {None, one.version}), None)
    if found is None:
        known = ", ".join(one.version for one in versions) or "none"
        raise UsageError(
            "source-unknown",
            f"No configured archive has the package {name}{f'={version}' if version else ''}.",
            advice=f"Its versions here: {known}.",
        )
    (path,) = archive.download([found], progress)
    run(["dpkg-deb", "-x", str(path), str(scratch / "package")]).check("Unpacking a package")
    (packed,) = (scratch / "package").glob("usr/src/linux-source-*.tar.xz")
    return KernelSource(archive=packed, package=path, inputs={f"{found.name}_{found.version}": found.sha256})


def _copy(path: Path, into: Path) -> Path:
    if path.stat().st_size > _LIMIT_BYTES:
        raise UsageError(
            "source-large", f"{path.name} is larger than {_LIMIT_BYTES >> 30} GiB.", advice="Give the source alone."
        )
    shutil.copyfile(path, into)
    return into
