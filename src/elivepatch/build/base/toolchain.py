# SPDX-License-Identifier: GPL-2.0-or-later
"""Toolchains: root file systems with the exact compiler that built a kernel, identified by a digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from elivepatch.build.base.apt import Archive
from elivepatch.build.sandbox.bubblewrap import MOUNT_POINTS, Sandbox
from elivepatch.files.atomic import publish_tree, set_aside
from elivepatch.files.digest import sha256_file, sha256_json
from elivepatch.files.lock import made_once
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.process import run

HELPER = "debian-13"
"""The toolchain whose root also holds bubblewrap, kpatch's tools, pahole and readelf for all kernels."""

# Different in every root, even from the same packages; none of it takes part in a build.
_VOLATILE = ("dev", "proc", "sys", "run", "tmp", "var/cache", "var/log", "var/lib/apt", "etc/apt", "etc/hostname",
             "etc/resolv.conf", "etc/machine-id", "etc/ld.so.cache", "var/lib/dpkg", "etc/shadow", "etc/shadow-",
             "etc/passwd-", "etc/group-", "etc/gshadow-")  # fmt: skip
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """Contents of a toolchain, as declared in data/toolchains.toml."""

    name: str
    suite: str
    compiler: str
    packages: tuple[str, ...]
    rust: bool
    unpack: tuple[dict[str, str], ...]

    @property
    def digest(self) -> Digest:
        """SHA-256 of the declaration."""
        return sha256_json(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A toolchain on disk. `comment` is the text that its compiler writes to the .comment section of every object."""

    name: str
    root: Path
    digest: Digest
    compiler: str
    comment: str
    size_bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self) | {"root": str(self.root)}

    @property
    def version(self) -> str:
        """The compiler's vendor and version as a kernel's configuration spells it, `(Debian 12.2.0-14) 12.2.0`."""
        return self.comment.removeprefix("GCC: ")


@cache
def declarations() -> dict[str, Declaration]:
    """Return the declared toolchains, by name."""
    table = tomllib.loads((files("elivepatch.build") / "data/toolchains.toml").read_text(encoding="utf-8"))
    return {
        name: Declaration(
            name=name,
            suite=entry["suite"],
            compiler=entry["compiler"],
            packages=tuple(entry["packages"]),
            rust=entry.get("rust", False),
            unpack=tuple(entry.get("unpack", ())),
        )
        for name, entry in table.items()
    }


@dataclass(frozen=True, slots=True)
class Toolchains:
    """The toolchains below `directory`, each as NAME/root and NAME/toolchain.json."""

    directory: Path
    archive: Archive

    def list(self) -> list[Toolchain]:
        """Return the existing toolchains, by name."""
        return [found for name in sorted(declarations()) if (found := self._load(name)) is not None]

    def get(self, name: str) -> Toolchain:
        """Return an existing toolchain. Raises EnvironmentFault if it is missing, UsageError if the name is unknown."""
        _declared(name)
        found = self._load(name)
        if found is None:
            raise EnvironmentFault(
                "toolchain-missing",
                f"The toolchain {name} is missing.",
                advice=f"Make it: elivepatch-server toolchain add {name}",
            )
        return found

    def helper(self) -> Toolchain:
        """Return the toolchain with bubblewrap and the tools."""
        return self.get(HELPER)

    def patch_headers(self) -> Path:
        """Return the directory of kpatch's helper headers and module makefile."""
        return self.helper().root / "usr/share/kpatch"

    def sandbox(self, toolchain: Toolchain, *, transcript: Path | None = None) -> Sandbox:
        """Return a sandbox in the root of `toolchain` whose programs' output is added to `transcript`."""
        return Sandbox(root=toolchain.root, helper=self.helper().root, transcript=transcript)

    def for_compiler(self, wanted: str, *, rust: bool) -> Toolchain:
        """Return the toolchain whose compiler is exactly `wanted`, such as `(Debian 12.2.0-14+deb12u1) 12.2.0`.

        `rust` is true if the kernel's configuration needs Rust.

        Raises EnvironmentFault that names the compiler needed and the compilers that exist.
        """
        present = self.list()
        for toolchain in present:
            if toolchain.version == wanted and declarations()[toolchain.name].rust == rust:
                return toolchain
        have = (
            "; ".join(f"{toolchain.name} has {toolchain.version}" for toolchain in present) or "there are no toolchains"
        )
        raise EnvironmentFault(
            "toolchain-match",
            f"No toolchain has the compiler that built this kernel, gcc {wanted}{' with Rust' * rust}: {have}.",
            advice=f"Make it with elivepatch-server toolchain add NAME; known are {', '.join(sorted(declarations()))}.",
        )

    def add(self, name: str, progress: Progress = silent) -> Toolchain:
        """Make a toolchain, or return the existing one. No unfinished toolchain ever has its name."""
        declaration = _declared(name)
        with made_once(self.directory / f".{name}.lock", progress=progress, waiting_for=f"the toolchain {name}"):
            if (found := self._load(name)) is not None:
                return found
            for left in (*self.directory.glob(f".{name}.new-*"), self.directory / name):
                shutil.rmtree(left, ignore_errors=True)
            return self._make(declaration, progress)

    def _make(self, declaration: Declaration, progress: Progress) -> Toolchain:
        started, name = time.monotonic(), declaration.name
        self.archive.refresh(progress)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}.new-", dir=self.directory))
        try:
            scratch.chmod(0o755)
            self._bootstrap(declaration, scratch, progress)
            root = scratch / "root"
            for part in MOUNT_POINTS:
                (root / part).mkdir()
            for entry in declaration.unpack:
                self._unpack(entry, root, progress)
            progress(Event(stage="toolchain", message=f"{name}: computing its digest", fraction=0.95))
            digest, size = digest_of(root)
            helper = root if name == HELPER else self.add(HELPER, progress).root
            comment = _comment_of(Sandbox(root=root, helper=helper), declaration.compiler)
            made = Toolchain(
                name=name,
                root=self.directory / name / "root",
                digest=digest,
                compiler=declaration.compiler,
                comment=comment,
                size_bytes=size,
                seconds=round(time.monotonic() - started, 1),
            )
            described = made.as_dict() | {"declared": declaration.digest}
            (scratch / "toolchain.json").write_text(json.dumps(described, indent=2))
            # A root has 10,000 files; all of them are on the disk before its name is.
            publish_tree(scratch, self.directory / name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        progress(Event(stage="toolchain", message=f"{name}: {comment}", fraction=1.0))
        return made

    def _bootstrap(self, declaration: Declaration, scratch: Path, progress: Progress) -> None:
        suites = [declaration.suite]
        if declaration.suite != "sid":
            suites += [f"{declaration.suite}-updates", f"{declaration.suite}-security"]
        sources = scratch / "sources.list"
        sources.write_text(self.archive.sources(*suites))
        command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=amd64",
                   "--dpkgopt=force-unsafe-io", *[f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED],
                   f"--include={','.join(declaration.packages)}", declaration.suite, str(scratch / "root"),
                   str(sources)]  # fmt: skip

        def report(seconds: float) -> None:
            # mmdebstrap reports no progress; the time that it usually takes is close enough.
            progress(
                Event(
                    stage="toolchain",
                    message=f"{declaration.name}: installing {len(declaration.packages)} packages and what they need",
                    fraction=min(seconds / 40, 0.9),
                )
            )

        progress(
            Event(stage="toolchain", message=f"{declaration.name}: making it from {declaration.suite}", fraction=0.0)
        )
        run(command, timeout_s=1800, on_tick=report, env={"SOURCE_DATE_EPOCH": "1"}).check(
            f"Making the toolchain {declaration.name}"
        )
        sources.unlink()

    def _unpack(self, entry: dict[str, str], root: Path, progress: Progress) -> None:
        found = [
            package
            for package in self.archive.versions(entry["package"])
            if run(["dpkg", "--compare-versions", package.version, "ge", entry["minimum"]]).ok
        ]
        if not found:
            raise EnvironmentFault(
                "package-missing",
                f"No configured archive has {entry['package']} of at least version {entry['minimum']}.",
                advice=f"The mirror must carry the suite {entry['suite']}.",
            )
        (path,) = self.archive.download(found[:1], progress)
        run(["dpkg-deb", "-x", str(path), str(root)]).check(f"Unpacking {entry['package']}")

    def verify(self, name: str) -> bool:
        """Return if the root's content still has the digest that it was made with."""
        toolchain = self.get(name)
        return digest_of(toolchain.root)[0] == toolchain.digest

    def remove(self, name: str) -> None:
        """Remove a toolchain, even a damaged one; bases that need it cannot be used until it is made again."""
        if not (self.directory / _declared(name).name).is_dir():
            self.get(name)
        doomed = self.directory / f".{name}.new-removed-{os.getpid()}"
        set_aside(self.directory / name, doomed)
        # A process that makes the same toolchain meanwhile removes these remains too.
        shutil.rmtree(doomed, ignore_errors=True)

    def _load(self, name: str) -> Toolchain | None:
        try:
            data = json.loads((self.directory / name / "toolchain.json").read_text(encoding="utf-8"))
            if data.pop("declared", "") != _declared(name).digest:
                return None  # made from another list of packages
            return Toolchain(**(data | {"root": self.directory / name / "root", "digest": Digest(data["digest"])}))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise EnvironmentFault(
                "toolchain-damaged",
                f"The description of toolchain {name} cannot be read.",
                advice=f"elivepatch-server toolchain remove {name}, then toolchain add {name}.",
            ) from error


def _declared(name: str) -> Declaration:
    try:
        return declarations()[name]
    except KeyError:
        raise UsageError(
            "toolchain-unknown",
            f"There is no toolchain called {name[:60]!r}.",
            advice=f"Known are {', '.join(sorted(declarations()))}.",
        ) from None


def digest_of(root: Path) -> tuple[Digest, int]:
    """Return the digest of a root's content (names, modes, bytes) and its size in bytes."""
    total = hashlib.sha256()
    size = 0
    for path, info in _walk(root):
        name = path.relative_to(root).as_posix()
        if stat.S_ISLNK(info.st_mode):
            what = f"link {path.readlink()}"
        elif stat.S_ISREG(info.st_mode):
            size += info.st_size
            what = f"file {stat.S_IMODE(info.st_mode):o} {sha256_file(path)}"
        else:
            what = f"other {info.st_mode:o}"
        total.update(f"{name}\0{what}\n".encode())
    return Digest(total.hexdigest()), size


def _walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    pending = [root]
    while pending:
        directory = pending.pop()
        for path in sorted(directory.iterdir()):
            name = path.relative_to(root).as_posix()
            if name in _VOLATILE or name.endswith(".pyc") or path.name == "__pycache__":
                continue
            info = path.lstat()
            yield path, info
            if stat.S_ISDIR(info.st_mode):
                pending.append(path)


def _comment_of(sandbox: Sandbox, compiler: str) -> str:
    script = f"cd /tmp && : >a.c && {compiler} -c a.c && readelf -p .comment a.o"
    shown = sandbox.run(["sh", "-c", script], layers=[]).check("Asking the compiler for its version")
    found = re.search(r"GCC: \(.*", shown.text)
    if found is None:
        raise EnvironmentFault(
            "toolchain-compiler",
            f"The compiler {compiler} does not print its version.",
            advice="The toolchain's declaration names the wrong compiler.",
        )
    return found.group().strip()
