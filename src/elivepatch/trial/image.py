# SPDX-License-Identifier: GPL-2.0-or-later
"""Root file system of the guest: a static busybox, init.sh, and the cases with the modules that they need.

It is two archives, one after the other, uncompressed: unpacking is faster than decompressing. The first one is a copy
of 2 MB, which is cheaper than any cache of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault
from elivepatch.trial import cpio
from elivepatch.trial.case import TrialCase, module_name
from elivepatch.trial.modules import ModuleTree, content
from elivepatch.trial.predicates import program as predicates
from elivepatch.trial.workload import guest_files

_DIRECTORIES = (
    "bin", "sbin", "usr", "usr/bin", "usr/sbin", "dev", "proc", "sys", "tmp", "observed", "etc", "root", "run",
)  # fmt: skip
# Documentation/admin-guide/devices.txt. They are in the image because a kernel may lack devtmpfs.
_DEVICES = (("console", 5, 1), ("null", 1, 3), ("zero", 1, 5), ("kmsg", 1, 11), ("ttyS0", 4, 64), ("ttyS1", 4, 65))


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A part of the guest's root file system; `missing` holds, for each case, the parents that the kernel lacks."""

    archive: bytes
    missing: tuple[tuple[str, ...], ...]


def base(busybox: Path) -> bytes:
    """Return the archive with the files that every guest needs.

    Raises EnvironmentFault if `busybox` is missing or needs shared libraries, which the guest does not have.
    """
    if not busybox.is_file() or ".interp" in ElfFile(busybox).by_name:
        raise EnvironmentFault(
            "trial-busybox",
            f"{busybox} is not a statically linked busybox.",
            advice="Install the package busybox-static; the guest of a trial needs it.",
        )
    entries = [cpio.directory(name) for name in _DIRECTORIES]
    entries += [cpio.device(f"dev/{name}", major, minor) for name, major, minor in _DEVICES]
    entries.append(cpio.file("bin/busybox", busybox.read_bytes(), executable=True))
    script = files("elivepatch.trial").joinpath("init.sh").read_bytes()
    entries.append(cpio.file("init", script, executable=True))
    return cpio.archive(entries)


def pack(cases: Sequence[tuple[str, TrialCase]], tree: ModuleTree) -> Packed:
    """Return the archive with `cases`, each with its scope in the guest's records, and with their modules.

    Raises UsageError for a name that is not a module name, EnvironmentFault for a module that cannot be read.
    """
    entries = [cpio.directory(name) for name in ("trial", "trial/case", "trial/modules")]
    entries += guest_files.shared(case.workload for _scope, case in cases)
    entries += predicates.shared(case.expectations for _scope, case in cases)
    packed: set[str] = set()
    missing = []
    for scope, case in cases:
        own = [module_name(parent) for parent in case.parents]
        others = [module_name(parent) for parent in (case.earlier.parents if case.earlier is not None else ())]
        plan = tree.plan([*own, *others])
        missing.append(tuple(name for name in plan.missing if name in own))
        worked = tree.plan(case.workload.modules).modules
        asked = tree.plan(predicates.modules_of(case.expectations)).modules
        for name, path in (*plan.modules, *worked, *asked):
            if name not in packed:
                packed.add(name)
                entries.append(cpio.file(f"trial/modules/{name}.ko", content(path)))
        loaded = dict.fromkeys(name for name, _path in (*plan.modules, *asked))
        entries += _case(f"trial/case/{scope}", case, list(loaded))
        entries += guest_files.of_case(f"trial/case/{scope}", case.workload, [name for name, _path in worked])
    return Packed(archive=cpio.archive(entries), missing=tuple(missing))


def _case(place: str, case: TrialCase, modules: Sequence[str]) -> list[cpio.CpioEntry]:
    entries = [
        cpio.directory(place),
        cpio.file(f"{place}/name", f"{module_name(case.name)}\n".encode()),
        cpio.file(f"{place}/modules", "".join(f"{module}\n" for module in modules).encode()),
        cpio.file(f"{place}/parents", "".join(f"{module}\n" for module in _reloaded(case, modules)).encode()),
        cpio.file(f"{place}/late", "".join(f"{module}\n" for module in _late(case, modules)).encode()),
        cpio.file(f"{place}/livepatch.ko", content(case.livepatch)),
    ]
    if case.stays:
        entries.append(cpio.file(f"{place}/stays", b""))
    if case.earlier is not None:
        entries += [
            cpio.directory(f"{place}/earlier"),
            cpio.file(f"{place}/earlier/name", f"{module_name(case.earlier.name)}\n".encode()),
            cpio.file(f"{place}/earlier/livepatch.ko", content(case.earlier.livepatch)),
        ]
    entries += predicates.of_case(place, case.expectations, case.predicates)
    return entries


def _reloaded(case: TrialCase, modules: Sequence[str]) -> list[str]:
    """Return the modules that the livepatch changes, the last one loaded first: another may depend on one before it."""
    changed = {module_name(parent) for parent in case.parents}
    return [module for module in reversed(modules) if module in changed]


def _late(case: TrialCase, modules: Sequence[str]) -> list[str]:
    """Return the changed modules that may come after the livepatch, in the order of unloading.

    The kernel refuses a livepatch before the modules whose exported symbols it uses.
    """
    return [module for module in _reloaded(case, modules) if module not in case.needs]
