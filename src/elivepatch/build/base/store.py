# SPDX-License-Identifier: GPL-2.0-or-later
"""Bases: everything needed to build against one kernel identity, kept read-only and shared by all jobs.

On disk, below the directory of bases:

    RELEASE/base.json     description of the base (class Base)
    RELEASE/tree/         prepared source tree with .config and Module.symvers
    RELEASE/vmlinux       the shipped kernel without debug information: symbols, code, export tables
    RELEASE/vmlinuz       the kernel image that a trial boots
    RELEASE/modules/      the shipped modules
    RELEASE/symbols/      their symbols as they were linked and without code (build/debug/symbol_tables.py)
    RELEASE/units.json    which source file belongs to which object and parent (class Units)
    RELEASE/changelog.gz  that of the package of the source, if it came in one
    RELEASE/config        the configuration as the operator gave it (custom bases only)
    RELEASE/graph.json    who includes what, and what generated files are made from (objects/header_users.py)
    RELEASE/generated/    sources and headers that make generates, to be read only
    RELEASE/originals/    unpatched objects that jobs have compiled so far
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from elivepatch.build.base.kbuild import SECTION_FLAGS, section_flags
from elivepatch.files.atomic import set_aside, write_atomic
from elivepatch.files.digest import sha256_json
from elivepatch.files.lock import Locked, exclusive_lock
from elivepatch.kernel.compile_units import Units
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.exports import Export, read_symvers
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import VMLINUX, BuildId, Digest, KernelIdentity, Release, parse_release

RECIPE = 5
"""Raised when the way a base is made changes; part of every base's digest."""

BASE_PATCH = "base patch "
"""Prefix of a base patch in `Base.packages`."""

_MODULES_KEPT = 64
_UNFINISHED_S = 86_400.0  # no object takes a day
_NEAREST = 4


@dataclass(frozen=True, kw_only=True)
class Base:
    """One base. `struct_sizes` are in bytes; `packages` maps the inputs that it was made from to SHA-256.

    `size_bytes` is the room on the disk that it took beside the bases that were there. The tree was prepared with
    `section_flags`; objects that are compared are compiled with them. `build_id` is that of the base's vmlinux,
    `claimed_build_id` that of a host whose kernel the operator accepted as the same without proof.
    `fidelity` counts the `objects` and `functions` of a sample that were compared with the kernel, the functions that
    are `identical`, and the objects that `failed` to compile alone.
    """

    directory: Path
    release: Release
    kind: str
    build_id: BuildId
    version: str
    config_digest: Digest
    toolchain: str
    toolchain_digest: Digest
    cc: str
    compiler: str
    ibt: bool
    modversions: bool
    struct_sizes: Mapping[str, int]
    packages: Mapping[str, str]
    size_bytes: int
    seconds: float
    recipe: int = RECIPE
    section_flags: str = SECTION_FLAGS
    fidelity: Mapping[str, int] = field(default_factory=dict)
    claimed_build_id: BuildId | None = None

    @property
    def tree(self) -> Path:
        """The prepared source tree."""
        return self.directory / "tree"

    @property
    def identity(self) -> KernelIdentity:
        """Identity of the kernel that a livepatch for this base is bound to."""
        return KernelIdentity(
            release=self.release,
            build_id=self.claimed_build_id or self.build_id,
            arch="x86_64",
            config_digest=self.config_digest,
            compiler=self.compiler,
        )

    @property
    def base_patches(self) -> dict[str, Digest]:
        """The patches with which the source was patched before the kernel was built, by name; none in stock bases."""
        named = {name: digest for name, digest in self.packages.items() if name.startswith(BASE_PATCH)}
        return {name.removeprefix(BASE_PATCH): Digest(digest) for name, digest in named.items()}

    @cached_property
    def digest(self) -> Digest:
        """SHA-256 over everything that determines the livepatches built for this base."""
        facts = self.as_dict()
        for incidental in ("size_bytes", "seconds", "fidelity", "digest"):
            facts.pop(incidental, None)
        return sha256_json(facts)

    @cached_property
    def units(self) -> Units:
        """Table of the objects and parents that each source belongs to."""
        return Units.load(self.directory / "units.json")

    @cached_property
    def vmlinux(self) -> LinkedSymbols:
        """The shipped kernel's symbols."""
        return LinkedSymbols(ElfFile(self.directory / VMLINUX), is_vmlinux=True)

    @cached_property
    def exports(self) -> Mapping[str, Export]:
        """Symbols that the kernel and its modules export."""
        return read_symvers(self.tree / "Module.symvers")

    @cached_property
    def module_files(self) -> Mapping[str, Path]:
        """The shipped modules, by the name that the kernel gives them."""
        return {
            path.name.split(".ko")[0].replace("-", "_"): path for path in (self.directory / "modules").rglob("*.ko")
        }

    def parent(self, name: str) -> LinkedSymbols:
        """Return the symbols of `vmlinux` or of a shipped module. Raises EnvironmentFault for an unknown module."""
        return self.vmlinux if name == VMLINUX else self._module(name)

    @cached_property
    def _module(self) -> Callable[[str], LinkedSymbols]:
        """Cached reader of a module's symbols: each step of a job needs them, and a kernel has thousands of modules."""
        return lru_cache(maxsize=_MODULES_KEPT)(self._read_module)

    def _read_module(self, name: str) -> LinkedSymbols:
        try:
            path = self.module_files[name]
        except KeyError:
            raise EnvironmentFault(
                "module-missing",
                f"The base has no module called {name}.",
                advice="The base is damaged: remove it and add it again.",
            ) from None
        return LinkedSymbols(ElfFile(path), is_vmlinux=False, listing=ElfFile(self.directory / "symbols" / path.name))

    def save(self, directory: Path) -> None:
        """Write base.json to `directory`, durably."""
        write_atomic(directory / "base.json", json.dumps(self.as_dict(), indent=2).encode())

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields, without the directory."""
        facts = asdict(self)
        facts.pop("directory")
        if self.claimed_build_id is None:
            facts.pop("claimed_build_id")
        return facts


@dataclass(frozen=True, slots=True)
class Bases:
    """The bases below `directory`."""

    directory: Path

    def list(self) -> list[Base]:
        """Return all bases by release."""
        if not self.directory.is_dir():
            return []
        names = sorted(path.parent.name for path in self.directory.glob("*/base.json"))
        return [base for name in names if not name.startswith(".") and (base := self.find(Release(name))) is not None]

    def get(self, release: str) -> Base:
        """Return the base of a release. Raises UsageError if it is malformed, EnvironmentFault if it is missing."""
        found = self.find(parse_release(release))
        if found is None:
            known = ", ".join(base.release for base in self.list()) or "none yet"
            raise EnvironmentFault(
                "kernel-unknown",
                f"The server has no base for kernel {release} (it has: {known}).",
                advice=f"Add it on the server: elivepatch-server kernel add {release}",
            )
        return found

    def nearest(self, base: Base) -> Sequence[Base]:
        """Return other bases whose sources have most in common with that of `base`: of one source, then of a series."""
        found: list[tuple[bool, bool, str, Base]] = []
        for path in self.directory.glob("[!.]*/base.json"):
            try:
                other = self.find(Release(path.parent.name))
            except EnvironmentFault:
                continue  # a damaged base is a matter of those who need it
            if other is not None and other.release != base.release:
                apart = _sources(base).isdisjoint(_sources(other))
                found.append((apart, _series(base) != _series(other), other.release, other))
        return [other for *_, other in sorted(found, key=lambda one: one[:3])[:_NEAREST]]

    def remove(self, release: str) -> None:
        """Remove a base with its compiled objects, even a damaged one. Raises as `get` does if it is missing."""
        place = self.directory / parse_release(release)
        if not place.is_dir():
            self.get(release)
        doomed = self.directory / f".{release}.new-removed-{os.getpid()}"
        set_aside(place, doomed)
        # A process that makes the same base meanwhile removes these remains too.
        shutil.rmtree(doomed, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what killed or cancelled processes left: unfinished bases, and unfinished objects in the others.

        Others may be making theirs meanwhile: the maker of a base holds a lock, and an object takes minutes.
        """
        for left in self.directory.glob("*/originals/.[ns]*-*"):
            if left.name.startswith((".new-", ".staged-")) and _age_s(left) > _UNFINISHED_S:
                shutil.rmtree(left, ignore_errors=True)
        for left in self.directory.glob(".*.new-*"):
            release = left.name[1:].rpartition(".new-")[0]
            try:
                with exclusive_lock(self.directory / f".{release}.lock", mode=0o644):
                    shutil.rmtree(left, ignore_errors=True)
            except Locked:
                continue

    def find(self, release: Release) -> Base | None:
        """Return the base of a release, None if it is missing or another version made it in another way.

        Raises EnvironmentFault if it is damaged.
        """
        place = self.directory / release
        try:
            facts = json.loads((place / "base.json").read_text(encoding="utf-8"))
            if facts["recipe"] != RECIPE:
                return None
            base = Base(directory=place, **facts)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise EnvironmentFault(
                "base-damaged",
                f"The description of base {release} cannot be read.",
                advice=f"elivepatch-server kernel remove {release}, then kernel add {release}.",
            ) from error
        return base if base.section_flags == section_flags(base.tree) else None


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # its maker has finished


def _sources(base: Base) -> set[str]:
    return {digest for name, digest in base.packages.items() if name.startswith(("linux-source-", "source "))}


def _series(base: Base) -> list[str]:
    return base.version.split(".")[:2]
