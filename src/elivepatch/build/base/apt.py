# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's package archive, read through apt: versions of packages, and downloads that apt has verified.

Mirrors come from the host's own apt configuration; the configuration made here only adds suites, so that a host of
one release can build for another. Every file is compared with the digest in the signed index before it is used, even
if an earlier run downloaded it.
"""

from __future__ import annotations

import os
import re
import time
import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from elivepatch.files.atomic import publish, write_atomic
from elivepatch.files.digest import sha256_file
from elivepatch.files.lock import made_once
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.process import run

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# The one suite that may be out of date: mirrors that follow releases carry it late. Its signature is still checked.
_UNSTABLE_SUITE = "sid"
_INDEX_AGE_S = 24 * 3600
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:~_-]*")


@cache
def distributions() -> dict[str, dict[str, Any]]:
    """Return the distribution releases with stock kernels, by name, as data/stock.toml describes them."""
    return tomllib.loads((files("elivepatch.build") / "data/stock.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of a package in the signed index."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    depends: str


@dataclass(frozen=True)
class Archive:
    """The archive as seen through a private apt configuration below `directory`.

    `directory` keeps apt's indexes and the downloaded packages; several processes may share it.
    """

    directory: Path

    @property
    def packages_dir(self) -> Path:
        """Directory of downloaded packages."""
        return self.directory / "packages"

    def sources(self, *suites: str) -> str:
        """Return apt sources (one-line format) for `suites`, from the mirrors of the host's own configuration."""
        main, security = self._mirrors
        lines = []
        for suite in suites:
            base = security if suite.endswith("-security") else main
            if base:
                fresh = " check-valid-until=no" if suite == _UNSTABLE_SUITE else ""
                lines.append(f"deb [signed-by={_KEYRING}{fresh}] {base} {suite} main\n")
        return "".join(lines)

    @cached_property
    def _mirrors(self) -> tuple[str, str]:
        listing = run(["apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages"])
        main = security = ""
        for line in listing.text.splitlines():
            uri, _, kind = line.partition("|")
            if kind == "Debian|Debian" and not main:
                main = uri
            elif kind == "Debian|Debian-Security" and not security:
                security = uri
        if not main:
            raise EnvironmentFault(
                "apt-sources",
                "The host's apt configuration names no Debian mirror, or its lists were never fetched.",
                advice="Run apt-get update; see sources.list(5) if no mirror is configured.",
            )
        return main, security

    @cached_property
    def _configuration(self) -> Path:
        for part in ("etc/sources.d", "etc/none", "lists/partial", "cache/archives/partial", "packages"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        sources = self.sources(
            *(suite for entry in distributions().values() for suite in entry["suites"]), _UNSTABLE_SUITE
        )
        self._put("etc/sources.d/elivepatch.list", sources)
        return self._put(
            "apt.conf",
            f'Dir::Etc "{self.directory}/etc";\nDir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "sources.d";\n'
            'Dir::Etc::preferencesparts "none";\nDir::Etc::preferences "none";\n'
            f'Dir::State "{self.directory}";\nDir::State::lists "lists";\nDir::State::status "/dev/null";\n'
            f'Dir::Cache "{self.directory}/cache";\nAcquire::Languages "none";\nAPT::Architecture "amd64";\n'
            'APT::Architectures { "amd64"; };\nAPT::Sandbox::User "root";\nAcquire::Retries "3";\n',
        )

    def _put(self, name: str, text: str) -> Path:
        """Write a file that another process may be reading.

        An unchanged file keeps its modification time, by which apt decides whether its own cache is current.
        """
        file = self.directory / name
        # A lock of its own: refresh() gets here while it holds the archive's.
        with made_once(self.directory / "configuration.lock"):
            if not file.exists() or file.read_text() != text:
                write_atomic(file, text.encode())
        return file

    def refresh(self, progress: Progress = silent, *, force: bool = False) -> None:
        """Fetch the signed indexes if they are missing or older than a day. Raises EnvironmentFault."""
        with made_once(self.directory / "lock"):
            stamp = self.directory / "refreshed"
            if not force and stamp.exists() and time.time() - stamp.stat().st_mtime < _INDEX_AGE_S:
                return
            progress(Event(stage="archive", message="fetching package indexes"))
            done = run(["apt-get", "-q", "update"], env={"APT_CONFIG": str(self._configuration)}, timeout_s=300)
            done.check("Fetching the package indexes")
            stamp.touch()

    def versions(self, name: str) -> list[Package]:
        """Return the versions of a package, newest first; an empty list if no archive has it."""
        if not _SAFE.fullmatch(name):
            return []
        self.refresh()
        done = run(
            ["apt-cache", "show", "--", name],
            env={"APT_CONFIG": str(self._configuration)},
        )
        found: dict[str, Package] = {}
        for stanza in done.text.split("\n\n"):
            fields = dict(re.findall(r"(?m)^([A-Za-z0-9-]+): (.*)$", stanza))
            if fields.get("Package") == name and "SHA256" in fields:
                package = Package(
                    name=name,
                    version=fields["Version"],
                    sha256=fields["SHA256"],
                    size_bytes=int(fields["Size"]),
                    depends=fields.get("Depends", ""),
                )
                found.setdefault(package.version, package)
        return list(found.values())

    def find(self, name: str, version: str) -> Package:
        """Return exactly this version. Raises EnvironmentFault if no archive has it."""
        for package in self.versions(name):
            if package.version == version:
                return package
        raise EnvironmentFault(
            "package-missing",
            f"No configured archive has {name} in version {version}.",
            advice="Debian keeps old versions for a limited time: take a newer kernel.",
        )

    def download(self, packages: list[Package], progress: Progress = silent) -> list[Path]:
        """Return the files of `packages`, each compared with the signed index; download those that are missing.

        Raises EnvironmentFault if a download fails or a file differs from the index.
        """
        wanted = [(package, self.packages_dir / f"{package.sha256}.deb") for package in packages]
        with made_once(self.directory / "lock"):
            missing = [(package, path) for package, path in wanted if not has_package(path, package)]
            total = sum(package.size_bytes for package, _ in missing)
            for package, path in missing:
                self._fetch(package, path, progress, total)
        return [path for _, path in wanted]

    def _fetch(self, package: Package, path: Path, progress: Progress, total: int) -> None:
        path.unlink(missing_ok=True)
        scratch = self.directory / "cache" / f"get-{os.getpid()}"
        scratch.mkdir(parents=True, exist_ok=True)
        for left in scratch.iterdir():
            left.unlink()

        def report(_seconds: float) -> None:
            partial = self.directory / "cache/archives/partial"
            have = max((file.stat().st_size for file in partial.iterdir() if file.is_file()), default=0)
            if not have:
                return
            progress(
                Event(
                    stage="download",
                    message=f"{package.name} {package.version} ({have >> 20} of {package.size_bytes >> 20} MiB)",
                    fraction=min(max(have / package.size_bytes, 0.01), 0.99),
                )
            )

        progress(
            Event(stage="download", message=f"{package.name} {package.version} (of {total >> 20} MiB)", fraction=0.0)
        )
        done = run(
            ["apt-get", "-q", "download", f"{package.name}={package.version}"],
            cwd=scratch,
            env={"APT_CONFIG": str(self._configuration)},
            timeout_s=3600,
            on_tick=report,
        )
        done.check(f"Downloading {package.name} {package.version}")
        files = list(scratch.glob("*.deb"))
        if len(files) != 1 or not has_package(files[0], package):
            raise EnvironmentFault(
                "package-damaged",
                f"The download of {package.name} {package.version} is not the file that the signed index names.",
                advice="Try again; if it happens again, the mirror is broken or somebody changes its files on the way.",
            )
        publish(files[0], path)
        scratch.rmdir()
        progress(Event(stage="download", message=f"{package.name} {package.version}", fraction=1.0))


def has_package(path: Path, package: Package) -> bool:
    """Return True if the file has the size and the digest of the package."""
    if not path.is_file() or path.stat().st_size != package.size_bytes:
        return False
    return sha256_file(path) == package.sha256
