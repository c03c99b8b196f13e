# SPDX-License-Identifier: GPL-2.0-or-later
"""Reader of a directory of packages: what they hold, by their own lists, and the files that are asked for.

A package is hostile input. Only programs in the sandbox read it, with limits, and only files that were asked for by
name are unpacked. The results are taken over as plain files (sandbox/output.py).
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.packages.tools import ENVIRONMENT, tool
from elivepatch.build.sandbox.bubblewrap import Sandbox, unprivileged, writable_directory
from elivepatch.build.sandbox.output import files_below
from elivepatch.build.sandbox.watched import run_watched
from elivepatch.model.errors import UsageError
from elivepatch.process import Completed, run

UNPACKED_LIMIT_BYTES = 16 << 30
_LIMIT_FILES = 200_000
_UNPACK_TIMEOUT_S = 1800.0
_LIST_TIMEOUT_S = 600.0
_NAMES = ".names"
_DEB = (".deb", ".ddeb")
_RPM = ".rpm"
_PACMAN = (".pkg.tar", ".pkg.tar.zst", ".pkg.tar.xz", ".pkg.tar.gz", ".pkg.tar.bz2")

_RPM_LIST = (
    r"%{NAME}-%{VERSION}-%{RELEASE}.src.rpm\n%{SOURCEPACKAGE}\n%{SOURCERPM}\n"
    r"[%{FILEFLAGS:fflags}\t%{FILEMODES:perms}\t%{FILENAMES}\n]"
)
_GHOST = "g"  # named by the package, and not in it
_DEB_LIST = 'dpkg-deb --fsys-tarfile "$1" | tar -t'
_DEB_UNPACK = 'package=$1; shift; dpkg-deb --fsys-tarfile "$package" | "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package that was looked at. `path` is relative to the directory.

    `source` is the name of the RPM with its source; it is that of the package itself if `is_source`. `version` is that
    of a .deb.
    """

    path: str
    names: tuple[str, ...]
    version: str = ""
    source: str = ""
    is_source: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Packages of a directory. `unreadable` are those that cannot be read, `others` the files that are no packages."""

    packages: tuple[Package, ...]
    unreadable: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageReader:
    """Reads the packages below `directory`. `tools` is a directory that `make_tools` filled."""

    directory: Path
    helper: Sandbox
    tools: Path

    def listing(self) -> Listing:
        """Return all packages with the names of their files; raises UsageError if the directory cannot be read."""
        self._require_readable()
        packages, unreadable, others = [], [], []
        for path in files_below(self.directory):
            if not path.endswith((*_DEB, _RPM, *_PACMAN)):
                others.append(path)
            elif (found := self._look_at(path)) is not None:
                packages.append(found)
            else:
                unreadable.append(path.encode(errors="replace").decode())
        return Listing(packages=tuple(packages), unreadable=tuple(unreadable), others=tuple(others))

    def unpack(self, path: str, names: Collection[str], into: Path) -> None:
        """Unpack the files with these names of a package to the new directory `into`, as the sandbox's user.

        Raises UsageError if the package is damaged, or holds more than any kernel's does.
        """
        writable_directory(into)
        (into / _NAMES).write_text("".join(f"{name}\0" for name in names))
        command = [*tool("bsdtar"), "-x", "-C", "/out", "-T", f"/out/{_NAMES}", "--null", "--no-same-owner"]
        if path.endswith(_DEB):
            command = ["bash", "-o", "pipefail", "-c", _DEB_UNPACK, "bash", f"/in/{path}", *command, "-f", "-"]
        else:
            command += ["-f", f"/in/{path}"]
        if path.endswith(_RPM):
            checked = self._run([*tool("rpmkeys"), "--checksig", "--nosignature", f"/in/{path}"], _UNPACK_TIMEOUT_S)
            if not checked.ok:
                raise damaged(path, checked)
        done = run_watched(
            into,
            lambda watch: self.helper.run(
                command, inputs=self.directory, output=into, tools=self.tools, env=ENVIRONMENT,
                timeout_s=_UNPACK_TIMEOUT_S, on_tick=watch[0], cancellation=watch[1],
            ),
            limit_bytes=UNPACKED_LIMIT_BYTES,
            limit_files=_LIMIT_FILES,
        )  # fmt: skip
        if done is None:
            raise UsageError(
                "packages-large",
                f"The package {path} holds more than {UNPACKED_LIMIT_BYTES >> 30} GiB or {_LIMIT_FILES} files of the "
                "kernel, or the disk is full.",
                advice="Look at the package with its own tools, and at the free room with df.",
            )
        if not done.ok:
            raise damaged(path, done)
        (into / _NAMES).unlink()

    def _run(self, command: list[str], timeout_s: float = _LIST_TIMEOUT_S) -> Completed:
        return self.helper.run(command, inputs=self.directory, tools=self.tools, env=ENVIRONMENT, timeout_s=timeout_s)

    def _require_readable(self) -> None:
        if not self.directory.is_dir():
            raise UsageError(
                "file-missing",
                f"There is no directory {self.directory}.",
                advice="Give the directory of the kernel's packages.",
            )
        if not run([*unprivileged(), "find", str(self.directory), "-mindepth", "1", "-quit"], cwd="/").ok:
            raise UsageError(
                "packages-unreadable",
                f"The sandbox cannot read {self.directory}: its programs run as another user.",
                advice=f"Open it and the directories above to all users: chmod o+rx {self.directory}",
            )

    def _look_at(self, path: str) -> Package | None:
        """Return a package with its list of files, None if it cannot be read."""
        if path.endswith(_DEB):
            return self._look_at_deb(path)
        return self._look_at_rpm(path) if path.endswith(_RPM) else self._look_at_pacman(path)

    def _look_at_deb(self, path: str) -> Package | None:
        version = self._run(["dpkg-deb", "-f", f"/in/{path}", "Version"])
        if not version.ok:
            return None
        # The list of digests is in the small part of the package; without it, all is decompressed.
        listed = self._run(["dpkg-deb", "-I", f"/in/{path}", "md5sums"])
        names = [line.partition("  ")[2] for line in listed.text.splitlines()] if listed.ok else []
        if not names:
            listed = self._run(["bash", "-o", "pipefail", "-c", _DEB_LIST, "bash", f"/in/{path}"])
            names = listed.text.splitlines()
        return Package(path=path, names=tuple(names), version=version.text.strip()) if listed.ok else None

    def _look_at_rpm(self, path: str) -> Package | None:
        done = self._run([*tool("rpm"), "-qp", "--nosignature", "--nodigest", "--qf", _RPM_LIST, f"/in/{path}"])
        itself, is_source, source, *files = (*done.text.splitlines(), "", "", "")
        if not done.ok or not itself:
            return None
        from_source = is_source == "1"
        return Package(
            path=path, names=tuple(_plain_files(files)), source=itself if from_source else source, is_source=from_source
        )

    def _look_at_pacman(self, path: str) -> Package | None:
        done = self._run([*tool("bsdtar"), "-t", "-f", f"/in/{path}"])
        return Package(path=path, names=tuple(done.text.splitlines())) if done.ok else None


def _plain_files(lines: list[str]) -> Iterator[str]:
    for line in lines:
        flags, _, rest = line.partition("\t")
        mode, _, name = rest.partition("\t")
        if mode.startswith("-") and _GHOST not in flags:
            yield name


def damaged(path: str, done: Completed) -> UsageError:
    """Return the refusal of a package that a program could not read."""
    return UsageError(
        "packages-damaged",
        f"The package {posixpath.basename(path)} cannot be unpacked.",
        advice="Fetch it again: it is cut off or damaged, or has something else where a kernel has files.",
        excerpt=done.tail(),
    )
