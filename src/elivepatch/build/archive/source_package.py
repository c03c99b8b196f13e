# SPDX-License-Identifier: GPL-2.0-or-later
"""Source packages of the archive: the changes that Debian makes to an original source, fetched without that source.

The index of sources is large and only a few kernels need it, so it is fetched when a version is asked for that the
index at hand does not have, and only for the suites that carry it.
"""

from __future__ import annotations

import re
from pathlib import Path

from elivepatch.build.archive.apt import Archive, Package, only, update_index
from elivepatch.files.atomic import write_atomic
from elivepatch.files.lock import made_once
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.process import run

# The field of a binary package: the source's name, and its version if that is another one.
_SOURCE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?: \((?P<version>[A-Za-z0-9][A-Za-z0-9+.:~-]*)\))?")
_CHECKSUMS = re.compile(r"(?m)^Checksums-Sha256: *\n((?: .*(?:\n|$))+)")
_FILE = re.compile(r" (?P<sha256>[0-9a-f]{64}) (?P<size>[0-9]+) (?P<name>[A-Za-z0-9][A-Za-z0-9+.~_-]*)")
_CHANGES = re.compile(r"\.debian\.tar\.(?:xz|gz|bz2)$")
# An index that is read once a week at most is not worth a cache beside that of the packages.
_NO_CACHE = ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]


def fetch_changes(archive: Archive, binary: Package, progress: Progress = silent) -> tuple[str, Path]:
    """Return name and file of the archive of Debian's changes from the source package that `binary` was made from.

    The file was compared with the signed index. Raises EnvironmentFault: `package-missing` if no index has that
    version, `package-gone` if the archive has lost the file, `package-damaged` if it is another file.
    """
    found = _SOURCE.fullmatch(binary.source)
    if found is None:
        raise EnvironmentFault(
            "package-layout",
            f"The index does not say which source package {binary.name} {binary.version} was made from.",
            advice="The mirror's index is unusual; report the package.",
        )
    name, version = found["name"], found["version"] or binary.version
    # The first suite must be readable; of the others, those are left out that are not.
    suites = sorted(archive.suites_of(binary), key=archive.unreadable().__contains__)
    with made_once(archive.directory / "sources.lock"):
        listed = archive.directory / "sources.list"
        lines = archive.sources(*suites).splitlines() if suites else []
        write_atomic(listed, "".join(f"deb-src{line.removeprefix('deb')}\n" for line in lines).encode())
        stated, reason = _stated(archive, listed, name, version), None
        if stated is None:
            progress(Event(stage="archive", message=f"fetching the index of sources of {', '.join(suites)}"))
            reason = _update(archive, listed)
            stated = _stated(archive, listed, name, version)
        if stated is None:
            note = f" The index of sources could not be read: {reason}." if reason else ""
            raise EnvironmentFault(
                "package-missing",
                f"No configured archive has the source package {name} in version {version}.{note}",
                advice="Debian keeps old versions for a limited time: take a newer kernel.",
            )
        file, package = stated
        options = [*only(listed), *_NO_CACHE, "source", "--download-only", "--diff-only"]
        command = ["apt-get", "-q", *options, f"{name}={version}"]
        return file, archive.download_by(command, package, f"{package.sha256}.debian.tar", progress)


def _update(archive: Archive, listed: Path) -> str | None:
    with made_once(archive.directory / "lock"):
        return update_index(listed, archive.environment)


def _stated(archive: Archive, listed: Path, name: str, version: str) -> tuple[str, Package] | None:
    """Return what the index says of a version's changes, their file name and digest; None if it lacks the version."""
    command = ["apt-cache", *only(listed), *_NO_CACHE, "showsrc", "--only-source", "--", name]
    for stanza in run(command, env=archive.environment).text.split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Version): (.*)$", stanza))
        if (fields.get("Package"), fields.get("Version")) != (name, version):
            continue
        block = _CHECKSUMS.search(stanza)
        files = [_FILE.fullmatch(line) for line in block[1].splitlines()] if block is not None else []
        changes = [file for file in files if file is not None and _CHANGES.search(file["name"])]
        if len(changes) != 1:
            raise EnvironmentFault(
                "package-layout",
                f"The source package {name} {version} has {len(changes)} archives of Debian's changes, not one.",
                advice="Only source packages of the format 3.0 (quilt) can be read.",
            )
        size, digest = int(changes[0]["size"]), changes[0]["sha256"]
        described = Package(name=f"the source of {name}", version=version, sha256=digest, size_bytes=size, depends="")
        return changes[0]["name"], described
    return None
