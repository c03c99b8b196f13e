# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules of a kernel's package, and the files that a parent needs, in the order of loading.

Image packages have no modules.dep (depmod makes it on the host), so the order comes from each module's own modinfo:
`depends`, and the `pre:` part of `softdep`, whose names may be aliases (modprobe.d(5)).
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import run
from elivepatch.trial.case import GuestKernel

_FILE = re.compile(r"([A-Za-z0-9_-]{1,55})\.ko(?:\.(?:xz|gz|zst))?")
_SIZE_LIMIT_BYTES = 256 << 20
_BUILTIN_ALIAS = re.compile(rb"[A-Za-z0-9_]+\.alias=([^\0]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Modinfo:
    """The fields of a module's modinfo that decide the order of loading; names have `_` for `-`."""

    depends: tuple[str, ...]
    wishes: tuple[str, ...]
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """Modules in the order of loading, each with its file, and the parents that do not exist."""

    modules: tuple[tuple[str, Path], ...]
    missing: tuple[str, ...]


@dataclass(slots=True)
class ModuleTree:
    """The modules below lib/modules/RELEASE. Their modinfo is read on demand and kept in memory."""

    files: dict[str, Path]
    builtin: frozenset[str]
    _read: dict[str, Modinfo] = field(default_factory=dict)
    _aliases: dict[str, str] | None = None

    def plan(self, parents: Iterable[str]) -> LoadPlan:
        """Return the modules to load for `parents`, dependencies first, none twice.

        Raises EnvironmentFault if a module's file cannot be read.
        """
        order: dict[str, Path] = {}
        missing = []
        for parent in parents:
            if parent == "vmlinux" or parent in self.builtin:
                continue
            if parent in self.files:
                self._visit(parent, order, set())
            else:
                missing.append(parent)
        return LoadPlan(modules=tuple(order.items()), missing=tuple(missing))

    def _visit(self, name: str, order: dict[str, Path], open_names: set[str]) -> None:
        if name in order or name in open_names or name not in self.files:
            return
        open_names.add(name)  # soft dependencies may form a circle; then either may be first
        info = self._modinfo(name)
        for wish in info.wishes:
            self._visit(self._provider(wish), order, open_names)
        for dependency in info.depends:
            self._visit(dependency, order, open_names)
        order[name] = self.files[name]

    def _provider(self, wish: str) -> str:
        """Return the module that `wish` means. Only an alias that no built-in code has makes it read every module."""
        if wish in self.files or wish in self.builtin:
            return wish
        if self._aliases is None:
            self._aliases = {alias: name for name in sorted(self.files) for alias in self._modinfo(name).aliases}
        return self._aliases.get(wish, wish)

    def _modinfo(self, name: str) -> Modinfo:
        if name not in self._read:
            self._read[name] = _read_modinfo(self.files[name])
        return self._read[name]


def module_tree(kernel: GuestKernel) -> ModuleTree:
    """Return the modules of `kernel`; a process keeps the trees of the last eight packages."""
    return _tree(kernel.modules_dir, kernel.build_id)


@lru_cache(maxsize=8)
def _tree(directory: Path, _build_id: str) -> ModuleTree:
    files: dict[str, Path] = {}
    for folder, _folders, names in os.walk(directory, followlinks=False):
        for name in names:
            path = Path(folder, name)
            found = _FILE.fullmatch(name)
            # A user uploaded the tree of a custom kernel: a link in it could lead to any file of this machine.
            if found and not path.is_symlink():
                files[found[1].replace("-", "_")] = path
    if not files and not directory.is_dir():
        raise EnvironmentFault(
            "kernel-modules",
            f"{directory} does not exist, so a trial cannot load the kernel's modules.",
            advice="Fetch the kernel's image package again, or give the directory that `make modules_install` made.",
        )
    return ModuleTree(files, _builtin(directory))


def _builtin(directory: Path) -> frozenset[str]:
    names = set()
    listed = directory / "modules.builtin"
    if listed.is_file():
        names |= {Path(line).name.removesuffix(".ko").replace("-", "_") for line in listed.read_text().split()}
    described = directory / "modules.builtin.modinfo"
    if described.is_file():
        names |= {found.decode(errors="replace") for found in _BUILTIN_ALIAS.findall(described.read_bytes())}
    return frozenset(names)


def _read_modinfo(path: Path) -> Modinfo:
    with tempfile.NamedTemporaryFile(suffix=".ko") as plain:
        if path.suffix != ".ko":
            plain.write(content(path))
            plain.flush()
        found = ElfFile(path if path.suffix == ".ko" else Path(plain.name)).modinfo
    depends = ",".join(found.get("depends", ())).replace("-", "_").split(",")
    wishes = [wish for text in found.get("softdep", ()) for wish in _before(text)]
    return Modinfo(
        depends=tuple(filter(None, depends)),
        wishes=tuple(wish.replace("-", "_") for wish in wishes),
        aliases=tuple(alias.replace("-", "_") for alias in found.get("alias", ())),
    )


def _before(softdep: str) -> Iterable[str]:
    """Yield the names between `pre:` and `post:`."""
    before = False
    for word in softdep.split():
        if word.endswith(":"):
            before = word == "pre:"
        elif before:
            yield word


def content(path: Path) -> bytes:
    """Return a module's bytes, decompressed.

    Raises EnvironmentFault if the file is damaged or larger than 256 MiB.
    """
    try:
        if path.suffix == ".xz":
            with lzma.open(path) as packed:
                plain = packed.read(_SIZE_LIMIT_BYTES + 1)
        elif path.suffix == ".gz":
            with gzip.open(path) as packed_gz:
                plain = packed_gz.read(_SIZE_LIMIT_BYTES + 1)
        elif path.suffix == ".zst":
            plain = run(["zstd", "-dcq", "--memory=256MB", path], timeout_s=60).check("Unpacking a module").output
        else:
            with path.open("rb") as file:
                plain = file.read(_SIZE_LIMIT_BYTES + 1)
    except (lzma.LZMAError, EOFError, OSError) as error:
        raise EnvironmentFault(
            "kernel-modules", f"{path.name} cannot be read: {error}.", advice="Make or fetch the file again."
        ) from error
    if len(plain) > _SIZE_LIMIT_BYTES:
        raise EnvironmentFault(
            "kernel-modules",
            f"{path.name} is larger than 256 MiB.",
            advice="No kernel has such a large module; check the file.",
        )
    return plain
