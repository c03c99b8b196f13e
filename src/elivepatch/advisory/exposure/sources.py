# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources of one kernel as its server knows them: the files, the module that each went into, the changelog.

They are one JSON document, so that a client can keep it and answer without a network.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from elivepatch.advisory.exposure.changelog import Changelog, package_vanilla
from elivepatch.advisory.exposure.version import KernelVersion, listed_version
from elivepatch.advisory.records.cve5 import inside_tree
from elivepatch.files.digest import sha256
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.kernel import BuildId, Digest, Release, parse_release

MAX_BYTES = 24 * 1024 * 1024
"""Far more than any kernel needs: 6.12 has 33,000 sources, 0.8 MB of JSON."""

_SCHEMA = 1
_BUILD_ID = re.compile(r"[0-9a-f]{16,128}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PARENT = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_PACKAGE_VERSION = re.compile(r"[A-Za-z0-9.+:~_-]{0,80}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSources:
    """One kernel as its server knows it.

    `package_version` is the distribution's (6.1.176-1), empty for a kernel that no package holds. `sources` maps every
    source file of its tree, by its path, to the parents it was built into: `vmlinux` or names of modules as the kernel
    knows them, none if this configuration does not build it. `builder` is a digest over everything on the server
    that decides the result of a source patch for this kernel. `changelog` is None if the server has none.
    """

    release: Release
    build_id: BuildId
    vanilla: KernelVersion
    package_version: str
    builder: Digest
    sources: Mapping[str, tuple[str, ...]]
    changelog: Changelog | None

    def encode(self) -> bytes:
        """Return the document; the same kernel gives the same bytes."""
        directories: dict[str, dict[str, list[str]]] = {}
        for path in sorted(self.sources):
            directory, name = posixpath.split(path)
            directories.setdefault(directory, {})[name] = list(self.sources[path])
        document = {
            "schema": _SCHEMA,
            "release": self.release,
            "build_id": self.build_id,
            "vanilla": str(self.vanilla),
            "package_version": self.package_version,
            "builder": self.builder,
            "changelog": self.changelog.as_dict() if self.changelog is not None else None,
            "sources": directories,
        }
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def decode(cls, content: bytes) -> KernelSources:
        """Read what `encode` wrote; raises UsageError for anything else."""
        try:
            return _decoded(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
            raise UsageError(
                "kernel-sources",
                "This is not a list of a kernel's sources.",
                advice="Fetch it from the server with `elivepatch cve update`, or give what "
                "GET /v1/kernels/RELEASE/sources answers.",
            ) from error

    @property
    def purl(self) -> str:
        """The kernel as a package URL: Debian's image package, or the vanilla kernel it is."""
        if self.package_version:
            return f"pkg:deb/debian/linux-image-{self.release}@{self.package_version}?arch=amd64".replace("+", "%2B")
        return vanilla_purl(self.vanilla)


def vanilla_purl(version: KernelVersion) -> str:
    """Return a vanilla kernel as a package URL."""
    return f"pkg:generic/linux@{version}"


def vanilla_of(release: str, package_version: str) -> KernelVersion:
    """Return the vanilla version behind a kernel: that of its package, else the one its release begins with.

    Raises EnvironmentFault if neither is a version of Linux.
    """
    leading = re.match(r"[0-9]+(?:\.[0-9]+){1,3}(?:-rc[0-9]+)?", release)
    found = package_vanilla(package_version) if package_version else listed_version(leading[0]) if leading else None
    if found is None:
        raise EnvironmentFault(
            "kernel-version",
            f"No vanilla version can be read from {package_version or release}.",
            advice="Give a vanilla version with --kernel.",
        )
    return found


def source_map(
    built: Iterable[tuple[str, Iterable[str]]], includers: Mapping[str, Iterable[str]], present: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return every source of `present` and `built` with its parents.

    A source that others include is in their parents too; a source that no object includes has no parents.
    """
    parents: dict[str, set[str]] = {path: set() for path in present if inside_tree(path)}
    for path, of in built:
        if inside_tree(path):
            parents.setdefault(path, set()).update(of)
    direct = {path: frozenset(of) for path, of in parents.items()}
    for path in includers:
        pending, seen = list(includers[path]), {path}
        while pending:
            current = pending.pop()
            if current not in seen:
                seen.add(current)
                parents.setdefault(path, set()).update(direct.get(current, ()))
                pending.extend(includers.get(current, ()))
    return {path: tuple(sorted(of)) for path, of in parents.items()}


def etag(content: bytes) -> str:
    """Return the entity tag of a document (RFC 9110, 8.8.3): its SHA-256."""
    return f'"{sha256(content)}"'


@lru_cache(maxsize=1)
def _decoded(content: bytes) -> KernelSources:
    return _read(json.loads(content[: MAX_BYTES + 1]))


def _read(read: Any) -> KernelSources:
    vanilla = listed_version(read["vanilla"])
    sources: dict[str, tuple[str, ...]] = {}
    for directory, names in read["sources"].items():
        for name, parents in names.items():
            path = f"{directory}/{name}" if directory else name
            if not inside_tree(path) or not isinstance(parents, list):
                raise ValueError(path)
            sources[path] = tuple(_matching(_PARENT, parent) for parent in parents)
    if read["schema"] != _SCHEMA or vanilla is None:
        raise ValueError("schema")
    return KernelSources(
        release=parse_release(read["release"]),
        build_id=BuildId(_matching(_BUILD_ID, read["build_id"])),
        vanilla=vanilla,
        package_version=_matching(_PACKAGE_VERSION, read["package_version"]),
        builder=Digest(_matching(_DIGEST, read["builder"])),
        sources=sources,
        changelog=Changelog.from_dict(read["changelog"]) if read["changelog"] is not None else None,
    )


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(value)
    return value
