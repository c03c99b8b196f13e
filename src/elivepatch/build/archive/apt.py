# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's package archive, read through apt: versions of packages, and downloads that apt has verified.

Mirrors come from the host's own apt configuration; the configuration made here only adds suites, so that a host of
one release can build for another. Every file is compared with the digest in the signed index before it is used, even
if an earlier run downloaded it.
"""

from __future__ import annotations

import json
import os
import re
import time
import tomllib
from collections.abc import Iterable, Sequence
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
_INDEX_AGE_S = 24 * 3600
_UNUSED_AGE_S = 7 * 24 * 3600.0
_FAILED_AGE_S = 3600
# One line of `apt-cache madison`, which has the newest version first.
_MADISON = re.compile(r" *(?P<name>\S+) \| *(?P<version>\S+) \| \S+ (?P<suite>[^/ ]+)/main amd64 Packages")
_GONE = re.compile(r"(?m)^ +404 +Not Found| 404 +Not Found")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:~_-]*")


@cache
def distributions() -> dict[str, dict[str, Any]]:
    """Return the distribution releases with stock kernels, by name, as data/stock.toml describes them."""
    return tomllib.loads((files("elivepatch.build") / "data/stock.toml").read_text(encoding="utf-8"))


@cache
def suites() -> dict[str, bool]:
    """Return the suites that are read, in the order of data/suites.toml, and whether the date of each must be valid."""
    table = tomllib.loads((files("elivepatch.build") / "data/suites.toml").read_text(encoding="utf-8"))
    return {name: entry.get("dated", True) for name, entry in table.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of a package in the signed index; `source` is its source package, as that index has it."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    depends: str
    source: str = ""


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

    def sources(self, *named: str) -> str:
        """Return apt sources (one-line format) for those suites of `named` that can be read now.

        The mirrors are those of the host's own configuration. Raises EnvironmentFault if the first suite cannot be
        read; the others only add to it.
        """
        unreadable = self.unreadable()
        if named[0] in unreadable:
            raise EnvironmentFault(
                "suite-unreadable",
                f"The suite {named[0]} of the archive cannot be read: {unreadable[named[0]]}.",
                advice="Look at the mirror; the server tries again within an hour.",
            )
        return "".join(self._source(suite) for suite in named if suite in suites() and suite not in unreadable)

    def _source(self, suite: str) -> str:
        main, security = self._mirrors
        base = security if suite.endswith("-security") else main
        undated = "" if suites()[suite] else " check-valid-until=no"
        return f"deb [signed-by={_KEYRING}{undated}] {base} {suite} main\n" if base else ""

    def unreadable(self) -> dict[str, str]:
        """Return the suites that could not be read the last time, each with the reason. A mirror may lack some."""
        try:
            found: dict[str, str] = json.loads((self.directory / "unreadable.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def unreadable_note(self) -> str:
        """Return a sentence about the suites that could not be read, with a space before it; empty if all could."""
        found = self.unreadable()
        shown = ", ".join(f"{suite} ({reason})" for suite, reason in found.items())
        return f" Suites that could not be read: {shown}." if found else ""

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which a program of apt reads this archive."""
        return {"APT_CONFIG": str(self._configuration)}

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
        self._put("etc/sources.d/elivepatch.list", "".join(self._source(suite) for suite in suites()))
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
        """Fetch the signed indexes if they are missing or older than a day; try those that failed once an hour.

        Each suite is fetched by itself, so one that is expired or broken costs only its own packages (`unreadable`).
        Raises EnvironmentFault if no suite can be read.
        """
        with made_once(self.directory / "lock"):
            stamp = self.directory / "refreshed"
            age = _FAILED_AGE_S if self.unreadable() else _INDEX_AGE_S
            configured = self._configuration
            if not force and stamp.exists() and time.time() - stamp.stat().st_mtime < age and self._has_all(stamp):
                return
            failed: dict[str, str] = {}
            for number, suite in enumerate(suites()):
                progress(
                    Event(stage="archive", message=f"fetching the index of {suite}", fraction=number / len(suites()))
                )
                if (reason := self._fetch_index(suite, configured)) is not None:
                    failed[suite] = reason
            if len(failed) == len(suites()):
                raise EnvironmentFault(
                    "archive-unreadable",
                    f"No suite of the archive can be read; the first: {next(iter(failed.values()))}.",
                    advice="Look at the network and at the mirror in the host's apt configuration (apt-get update).",
                )
            write_atomic(self.directory / "unreadable.json", json.dumps(failed, indent=2).encode())
            write_atomic(stamp, " ".join(suites()).encode())

    def _has_all(self, stamp: Path) -> bool:
        # Another version of elivepatch may have read fewer suites.
        return set(suites()) <= set(stamp.read_text(encoding="utf-8").split())

    def _fetch_index(self, suite: str, configured: Path) -> str | None:
        """Fetch the index of one suite; return None, or why it cannot be read. An older index of it is kept."""
        source = self._source(suite)
        if not source:
            return "the host's apt configuration names no mirror of the security archive"
        listed = self.directory / "one-suite.list"
        write_atomic(listed, source.encode())
        return update_index(listed, {"APT_CONFIG": str(configured)})

    def newest(self, name: str, in_suites: Sequence[str]) -> str | None:
        """Return the newest version of a package in some suites, None if none of them has it."""
        return next((version for version, suite in self._listed(name) if suite in in_suites), None)

    def suites_of(self, package: Package) -> list[str]:
        """Return the suites that have exactly this version of a package."""
        return [suite for version, suite in self._listed(package.name) if version == package.version]

    def _listed(self, name: str) -> list[tuple[str, str]]:
        """Return version and suite for each place of a package in the indexes, the newest version first."""
        if not _SAFE.fullmatch(name):
            return []
        self.refresh()
        lines = run(["apt-cache", "madison", "--", name], env=self.environment).text.splitlines()
        places = [found for line in lines if (found := _MADISON.fullmatch(line)) is not None and found["name"] == name]
        return [(found["version"], found["suite"]) for found in places]

    def versions(self, name: str) -> list[Package]:
        """Return the versions of a package, newest first; an empty list if no archive has it."""
        if not _SAFE.fullmatch(name):
            return []
        self.refresh()
        done = run(["apt-cache", "show", "--", name], env=self.environment)
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
                    source=fields.get("Source", name),
                )
                found.setdefault(package.version, package)
        return list(found.values())

    def kernels_like(self, release: str) -> list[str]:
        """Return the releases of one kind that the index lists with a debug package, newest first.

        Of one kind are those of the series, the suite and the flavour of `release`, which is not among them.
        """
        self.refresh()
        shape = re.fullmatch(
            r"([0-9]+\.[0-9]+\.)[^+-]*(\+deb[0-9]+)?[^-]*(?:-[0-9][^-]*)?((?:-[a-z]+)*-amd64)", release
        )
        if shape is None:
            return []
        series, suite, flavour = (re.escape(part or "") for part in shape.groups())
        form = re.compile(rf"linux-image-({series}[^+-]+{suite}(?:\.[0-9]+)?(?:-[0-9][^-]*)?{flavour})-dbg")
        command = ["apt-cache", "pkgnames", "--", f"linux-image-{shape[1]}"]
        names = run(command, env=self.environment).text.split()
        found = [one[1] for name in names if (one := form.fullmatch(name)) is not None and one[1] != release]
        return sorted(found, key=lambda name: [int(part) for part in re.findall("[0-9]+", name)], reverse=True)

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
        wanted = [(package, self._file(package)) for package in packages]
        with made_once(self.directory / "lock"):
            missing = [(package, path) for package, path in wanted if not has_package(path, package)]
            total = sum(package.size_bytes for package, _ in missing)
            for package, path in missing:
                command = ["apt-get", "-q", "download", f"{package.name}={package.version}"]
                self._fetch(package, path, command, progress, total)
            for _, path in wanted:
                os.utime(path)
        return [path for _, path in wanted]

    def download_by(self, command: list[str], package: Package, name: str, progress: Progress = silent) -> Path:
        """Return the file `name` among the downloads, fetched by a command of apt unless it is there; as `download`.

        The command leaves one file in its working directory, that of `package`.
        """
        path = self.packages_dir / name
        with made_once(self.directory / "lock"):
            if not has_package(path, package):
                self._fetch(package, path, command, progress, package.size_bytes)
            os.utime(path)
        return path

    def drop(self, packages: Iterable[Package]) -> None:
        """Remove the files of `packages`: what they were fetched for is made."""
        with made_once(self.directory / "lock"):
            for package in packages:
                self._file(package).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the files that nobody has asked for within a week."""
        with made_once(self.directory / "lock"):
            for path in self.packages_dir.glob("*.deb*"):
                if time.time() - path.stat().st_mtime > _UNUSED_AGE_S:
                    path.unlink(missing_ok=True)

    def _file(self, package: Package) -> Path:
        return self.packages_dir / f"{package.sha256}.deb"

    def _fetch(self, package: Package, path: Path, command: list[str], progress: Progress, total: int) -> None:
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
        done = run(command, cwd=scratch, env=self.environment, timeout_s=3600, on_tick=report)
        if not done.ok and _GONE.search(done.log.decode(errors="replace") + done.text):
            raise EnvironmentFault(
                "package-gone",
                f"the archive lists {package.name} {package.version}, but has lost the file.",
                advice="Take a newer kernel, or an older one whose packages the archive still has.",
            )
        done.check(f"Downloading {package.name} {package.version}")
        files = list(scratch.iterdir())
        if len(files) != 1 or not has_package(files[0], package):
            raise EnvironmentFault(
                "package-damaged",
                f"The download of {package.name} {package.version} is not the file that the signed index names.",
                advice="Try again; if it happens again, the mirror is broken or somebody changes its files on the way.",
            )
        publish(files[0], path)
        scratch.rmdir()
        progress(Event(stage="download", message=f"{package.name} {package.version}", fraction=1.0))


def update_index(listed: Path, environment: dict[str, str]) -> str | None:
    """Fetch the indexes of the sources in the file `listed`; return None, or why they cannot be read."""
    options = [*only(listed), "-o", "APT::Get::List-Cleanup=false", "-o", "APT::Update::Error-Mode=any"]
    done = run(["apt-get", "-q", *options, "update"], env=environment, timeout_s=300)
    if done.ok:
        return None
    errors = [line[3:].strip().rstrip(".") for line in done.tail(100).splitlines() if line.startswith("E: ")]
    return re.sub(r"[a-z]+://\S+/", "", errors[0])[:200] if errors else f"apt-get ended with status {done.status}"


def only(listed: Path) -> list[str]:
    """Return the options with which a program of apt reads the sources in the file `listed` and no others."""
    return ["-o", f"Dir::Etc::sourcelist={listed}", "-o", "Dir::Etc::sourceparts=/dev/null"]


def has_package(path: Path, package: Package) -> bool:
    """Return True if the file has the size and the digest of the package."""
    if not path.is_file() or path.stat().st_size != package.size_bytes:
        return False
    return sha256_file(path) == package.sha256
