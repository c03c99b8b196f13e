# SPDX-License-Identifier: GPL-2.0-or-later
"""Toolchains: root file systems with the exact compiler that built a kernel, known by what it says of itself.

A toolchain is made from the distribution's packages (roots/declared.py) or from a root that an operator brought
(roots/foreign.py). A declared name can have several versions: `debian-sid-rust` is the first that was made, each later
one has the version of the compiler's package in its name, `debian-sid-rust@16.2.0-5` (docs/adr/0029).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.store import Base
from elivepatch.build.roots.answers import ask
from elivepatch.build.roots.bootstrap import bootstrap
from elivepatch.build.roots.contents import digest_of
from elivepatch.build.roots.declared import Declaration, declarations
from elivepatch.build.roots.description import Draft, Toolchain, is_name, read_description, require_new_name
from elivepatch.build.roots.foreign import ForeignRoot, take_root
from elivepatch.build.sandbox.bubblewrap import MOUNT_POINTS, Sandbox
from elivepatch.files.atomic import publish_tree, set_aside
from elivepatch.files.lock import made_once
from elivepatch.files.room import require_room
from elivepatch.model.compiler import CompilerText, parse_compiler
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.process import run

HELPER = "debian-13"
"""The toolchain whose root also holds bubblewrap, kpatch's tools, pahole and readelf for all kernels."""

_ROOM_BYTES = 3 << 30  # debian-sid-rust, the largest, has 1.6 GiB; its packages are beside it while it is made


@dataclass(frozen=True, slots=True)
class Toolchains:
    """The toolchains below `directory`, each as NAME/root and NAME/toolchain.json."""

    directory: Path
    archive: Archive

    def list(self) -> list[Toolchain]:
        """Return the existing toolchains, by name, also those that only older bases use (`Toolchain.current`).

        Raises EnvironmentFault for a damaged one.
        """
        return [*self._all()]

    def get(self, name: str) -> Toolchain:
        """Return an existing toolchain. Raises EnvironmentFault if it is missing, UsageError if the name is unknown."""
        found = read_description(self.directory, name) if is_name(name) else None
        if found is not None and found.current:
            return found
        _declared(name)
        raise EnvironmentFault(
            "toolchain-missing",
            f"The toolchain {name} is missing.",
            advice=f"Make it: elivepatch-server toolchain add {name}",
        )

    def of(self, base: Base) -> Toolchain:
        """Return the very toolchain that a base was made with, under whichever name it is now.

        Raises EnvironmentFault if it is missing or if the toolchain of its name is another one by now.
        """
        found = self._find(base)
        if found is not None:
            return found
        named = self.get(base.toolchain)
        raise EnvironmentFault(
            "toolchain-changed",
            f"The toolchain {named.name} was made again after the base of {base.release}.",
            advice=f"Make the base again: elivepatch-server kernel add {base.release}",
        )

    def restore(self, base: Base, progress: Progress = silent) -> bool:
        """Return whether the toolchain of a base exists; a declared one that is missing is made again first.

        Raises EnvironmentFault if it cannot be made now, but may be later.
        """
        if self._find(base) is None and base.toolchain.partition("@")[0] in declarations():
            try:
                self.add(base.toolchain, progress)
            except EnvironmentFault as fault:
                if fault.problem.code != "toolchain-version":
                    raise
        return self._find(base) is not None

    def helper(self) -> Toolchain:
        """Return the toolchain with bubblewrap and the tools."""
        return self.get(HELPER)

    def patch_headers(self) -> Path:
        """Return the directory of kpatch's helper headers and module makefile."""
        return self.helper().root / "usr/share/kpatch"

    def sandbox(self, toolchain: Toolchain, *, transcript: Path | None = None) -> Sandbox:
        """Return a sandbox in the root of `toolchain` whose programs' output is added to `transcript`."""
        return Sandbox(root=toolchain.root, helper=self.helper().root, transcript=transcript)

    def for_kernel(self, text: str, *, rust: bool, progress: Progress = silent) -> Toolchain:
        """Return the toolchain with exactly the compiler that a kernel's configuration names, and the helper beside it.

        `text` is CONFIG_CC_VERSION_TEXT; `rust` is true if the configuration needs Rust. A declared toolchain whose
        suite has that compiler now is made if it is missing. Raises EnvironmentFault with the code `toolchain-match`.
        """
        wanted = parse_compiler(text)
        if wanted is None:
            raise EnvironmentFault(
                "toolchain-match",
                f"The kernel was built by a compiler that is not supported: {text[:120]}.",
                advice="The configuration must name the version of its gcc (CONFIG_CC_VERSION_TEXT).",
            )
        self.add(HELPER, progress)
        found = self.find_compiler(wanted, rust=rust) or self._make_for(wanted, rust=rust, progress=progress)
        if found is None:
            raise self._no_match(wanted, rust=rust)
        return found

    def find_compiler(self, wanted: CompilerText, *, rust: bool) -> Toolchain | None:
        """Return the existing toolchain whose compiler is exactly the wanted one, None if there is none.

        A root that was brought also fits if only its Rust differs: the configuration that is prepared with it decides.
        """
        fitting = [one for one in self._all(damaged=False) if one.current and one.version == wanted.version]
        exact = [one for one in fitting if one.rust == rust]
        return next(iter([*exact, *(one for one in fitting if not one.declared)]), None)

    def _make_for(self, wanted: CompilerText, *, rust: bool, progress: Progress) -> Toolchain | None:
        for declaration in declarations().values():
            if declaration.rust != rust or not declaration.may_make(wanted):
                continue
            version = self.archive.newest(declaration.compiler, declaration.suites)
            if version is None or not declaration.makes(wanted, version):
                continue
            taken = read_description(self.directory, declaration.name)
            name = f"{declaration.name}@{version}" if taken is not None and taken.current else declaration.name
            made = self.add(name, progress)
            if made.version == wanted.version:
                return made
        return None

    def _no_match(self, wanted: CompilerText, *, rust: bool) -> EnvironmentFault:
        have = "; ".join(f"{one.name} has {one.version}" for one in self._all(damaged=False) if one.current)
        return EnvironmentFault(
            "toolchain-match",
            f"No toolchain has the compiler that built this kernel, {wanted.family} {wanted.version}"
            f"{' with Rust' * rust}: {have or 'there are no toolchains'}.{self.archive.unreadable_note()}",
            advice="Bring the root file system that it is in: elivepatch-server toolchain add NAME --root "
            f"DIR|TARBALL. None of the declared toolchains has it now: {', '.join(sorted(declarations()))}.",
        )

    def add(self, name: str, progress: Progress = silent) -> Toolchain:
        """Make a declared toolchain, or return the existing one. No unfinished toolchain ever has its name.

        `name` is NAME, or NAME@VERSION for that version of the compiler's package, which the suite must have now.
        Raises UsageError or EnvironmentFault.
        """
        declaration = _declared(name)
        with made_once(self.directory / f".{name}.lock", progress=progress, waiting_for=f"the toolchain {name}"):
            if (found := read_description(self.directory, name)) is not None and found.current:
                return found
            _, _, version = name.partition("@")
            if version and (now := self.archive.newest(declaration.compiler, declaration.suites)) != version:
                raise _moved_on(declaration, now, version)
            self._clear(name, found)
            require_room(self.directory, _ROOM_BYTES, f"The toolchain {name}")
            return self._make(declaration, name, progress)

    def add_root(
        self, name: str, given: Path, compiler: str | None, progress: Progress = silent
    ) -> tuple[Toolchain, ForeignRoot]:
        """Make a toolchain from a root file system, a directory or a tar archive; return it with what was noticed.

        `compiler` is the command of its compiler, None to look for it. Raises UsageError or EnvironmentFault.
        """
        require_new_name(name)
        tools = self.add(HELPER, progress).root
        helper = Sandbox(root=tools, helper=tools)
        with made_once(self.directory / f".{name}.lock", progress=progress, waiting_for=f"the toolchain {name}"):
            if (self.directory / name).exists():
                raise UsageError(
                    "toolchain-present",
                    f"There is a toolchain called {name} already.",
                    advice=f"Choose another name, or remove it first: elivepatch-server toolchain remove {name}",
                )
            self._clear(name, None)
            require_room(self.directory, _ROOM_BYTES, f"The toolchain {name}")
            started = time.monotonic()
            with self._scratch(name) as scratch:
                progress(Event(stage="toolchain", message=f"{name}: unpacking {given.name}", fraction=0.0))
                looked = take_root(given, scratch / "root", helper, compiler)
                draft = Draft(name=name, compiler=looked.compiler, rust=looked.rust, declared="", started=started)
                made = self._finish(draft, scratch, helper, progress)
        return made, looked

    def _make(self, declaration: Declaration, name: str, progress: Progress) -> Toolchain:
        started = time.monotonic()
        self.archive.refresh(progress)
        with self._scratch(name) as scratch:
            root = scratch / "root"
            bootstrap(declaration, root, self.archive.sources(*declaration.suites), progress)
            for part in MOUNT_POINTS:
                (root / part).mkdir()
            for entry in declaration.unpack:
                self._unpack(entry, root, progress)
            helper = root if name == HELPER else self.add(HELPER, progress).root
            draft = Draft(
                name=name,
                compiler=declaration.compiler,
                rust=declaration.rust,
                declared=declaration.digest,
                started=started,
            )
            return self._finish(draft, scratch, Sandbox(root=helper, helper=helper), progress)

    def _finish(self, draft: Draft, scratch: Path, helper: Sandbox, progress: Progress) -> Toolchain:
        """Ask the compiler of the new root who it is, and publish the toolchain."""
        name, root = draft.name, scratch / "root"
        asked = scratch / "asked"
        asked.mkdir(mode=0o755)
        answers = ask(draft.compiler, sandbox=Sandbox(root=root, helper=helper.helper), helper=helper, scratch=asked)
        asked.rmdir()
        progress(Event(stage="toolchain", message=f"{name}: computing its digest", fraction=0.95))
        digest, size = digest_of(root)
        made = Toolchain(
            name=name,
            root=self.directory / name / "root",
            digest=digest,
            compiler=draft.compiler,
            comment=answers.comment,
            size_bytes=size,
            seconds=round(time.monotonic() - draft.started, 1),
            says=answers.says,
            rust=draft.rust,
            declared=draft.declared,
        )
        (scratch / "toolchain.json").write_text(json.dumps(made.as_dict(), indent=2))
        # A root has 10,000 files; all of them are on the disk before its name is.
        publish_tree(scratch, self.directory / name)
        progress(Event(stage="toolchain", message=f"{name}: {answers.comment}", fraction=1.0))
        return made

    @contextmanager
    def _scratch(self, name: str) -> Iterator[Path]:
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}.new-", dir=self.directory))
        try:
            scratch.chmod(0o755)
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _clear(self, name: str, older: Toolchain | None) -> None:
        """Make way for a new toolchain: remains go, one that was made from an older declaration gets another name."""
        for left in self.directory.glob(f".{name}.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        if older is not None:
            # Bases that were made with it find it by its digest.
            set_aside(self.directory / name, self.directory / older.name_when_older)
        shutil.rmtree(self.directory / name, ignore_errors=True)

    def _unpack(self, entry: dict[str, str], root: Path, progress: Progress) -> None:
        found = [
            package
            for package in self.archive.versions(entry["package"])
            if run(["dpkg", "--compare-versions", package.version, "ge", entry["minimum"]]).ok
        ]
        if not found:
            raise EnvironmentFault(
                "package-missing",
                f"No configured archive has {entry['package']} of at least version {entry['minimum']}."
                f"{self.archive.unreadable_note()}",
                advice=f"The mirror must carry the suite {entry['suite']}.",
            )
        (path,) = self.archive.download(found[:1], progress)
        run(["dpkg-deb", "-x", str(path), str(root)]).check(f"Unpacking {entry['package']}")

    def verify(self, name: str) -> bool:
        """Return if the root's content still has the digest that it was made with. Raises as `get` does."""
        kept = read_description(self.directory, name) if is_name(name) else None
        toolchain = kept or self.get(name)
        return digest_of(toolchain.root)[0] == toolchain.digest

    def remove(self, name: str, bases: Iterable[Base]) -> None:
        """Remove a toolchain. Raises UsageError if one of `bases` was made with it, unless it is damaged.

        A damaged one serves no base any more; the bases are made again when they are added the next time.
        """
        place = self.directory / name
        if not is_name(name) or not place.is_dir():
            self.get(name)
        try:
            found = read_description(self.directory, name)
        except EnvironmentFault:
            found = None
        needing = sorted(base.release for base in bases if found is not None and base.toolchain_digest == found.digest)
        if found is not None and needing and digest_of(found.root)[0] == found.digest:
            raise UsageError(
                "toolchain-needed",
                f"The toolchain {name} is needed by {', '.join(needing)}.",
                advice=f"Remove what needs it first: elivepatch-server kernel remove {needing[0]}",
            )
        doomed = self.directory / f".{name}.new-removed-{os.getpid()}"
        set_aside(place, doomed)
        # A process that makes the same toolchain meanwhile removes these remains too.
        shutil.rmtree(doomed, ignore_errors=True)

    def _find(self, base: Base) -> Toolchain | None:
        return next((one for one in self._all(damaged=False) if one.digest == base.toolchain_digest), None)

    def _all(self, *, damaged: bool = True) -> Iterator[Toolchain]:
        """Yield all toolchains on disk by name. A damaged one is passed over, or raises EnvironmentFault."""
        for name in sorted(path.parent.name for path in self.directory.glob("[!.]*/toolchain.json")):
            try:
                found = read_description(self.directory, name) if is_name(name) else None
            except EnvironmentFault:
                if damaged:
                    raise
                continue
            if found is not None:
                yield found


def _declared(name: str) -> Declaration:
    first, _, _ = name.partition("@")
    if first not in declarations() or not is_name(name):
        raise UsageError(
            "toolchain-unknown",
            f"There is no toolchain called {name[:60]!r}.",
            advice=f"Known are {', '.join(sorted(declarations()))}; --root brings any other.",
        )
    return declarations()[first]


def _moved_on(declaration: Declaration, now: str | None, version: str) -> EnvironmentFault:
    bring = "Bring a root file system that has it: elivepatch-server toolchain add NAME --root DIR|TARBALL"
    return EnvironmentFault(
        "toolchain-version",
        f"The suite {declaration.suite} has {declaration.compiler} {now or 'no more'} now, not {version}.",
        advice=f"{bring}; or make the current one: elivepatch-server toolchain add {declaration.name}@{now}"
        if now
        else f"{bring}.",
    )
