# SPDX-License-Identifier: GPL-2.0-or-later
"""Files kept of a build, copied to a directory of their own, and the tree of modules that a base keeps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.sandbox.output import files_below, take_file
from elivepatch.kernel.kbuild.record import RECORD_LIMIT_BYTES, BuiltObject, parse_record, read_build
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import VMLINUX, Release

DEBUG = "debug"
"""Directory of the debug files, below that of the other files."""

IMAGE = "bzImage"

_FILE_LIMIT_BYTES = 2 << 30
_COMPRESSED = ("", ".xz", ".gz", ".zst")
_DEBUG_SUFFIXES = (".ko.debug", *(f".ko{suffix}" for suffix in _COMPRESSED))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBuild:
    """Files kept of a build: vmlinux, bzImage, Module.symvers, lib/modules/RELEASE, and a directory of debug files.

    vmlinux and modules have their debug information in themselves, or in a file of `debug` or beside them. If the
    kernel has none, `build` is the directory in which it was built, or `record` a file with the record of that.
    """

    vmlinux: Path
    vmlinuz: Path
    symvers: Path
    modules: Path | None
    debug: Path | None = None
    build: Path | None = None
    record: Path | None = None


def left_by_build(directory: Path, **given: Path | None) -> KeptBuild:
    """Return the files that a build left in a directory; `given` are fields of KeptBuild to use in place of these."""
    named = {name: path for name, path in given.items() if path is not None}
    return KeptBuild(
        vmlinux=named.get("vmlinux", directory / VMLINUX),
        vmlinuz=named.get("vmlinuz", directory / "arch/x86/boot" / IMAGE),
        symvers=named.get("symvers", directory / "Module.symvers"),
        modules=named.get("modules"),
        debug=named.get("debug"),
        build=directory,
    )


def record_of(kept: KeptBuild) -> tuple[BuiltObject, ...] | None:
    """Return the record of a build, None if nothing was kept that shows it.

    Raises EnvironmentFault with the code `kbuild-files` if what was kept does not name the source of each object.
    """
    if kept.record is not None:
        with kept.record.open("rb") as file:
            return parse_record(file.read(RECORD_LIMIT_BYTES + 1))
    return read_build(kept.build) if kept.build is not None else None


def installed(release: Release) -> str:
    """Return the directory of a kernel's modules, as `make modules_install` names it."""
    return f"lib/modules/{release}"


def copy_kept(kept: KeptBuild, built: Path, release: Release) -> None:
    """Copy the files to `built`, as the build itself would leave them there. Raises UsageError for a missing one."""
    for path, name in ((kept.vmlinux, VMLINUX), (kept.vmlinuz, IMAGE), (kept.symvers, "Module.symvers")):
        if not path.is_file():
            raise UsageError("file-missing", f"There is no file {path}.", advice="Check the files kept of the build.")
        shutil.copyfile(path, built / name)
    modules = built / installed(release)
    if kept.modules is None:
        modules.mkdir(parents=True)
    else:
        _require_directory(kept.modules, "Give lib/modules/RELEASE.")
        # Links lead to the build and source directories; other packages put their modules beside the kernel's.
        shutil.copytree(kept.modules, modules, symlinks=True, ignore=shutil.ignore_patterns("build", "source", "vdso"))
    for directory, names in _debug_files(kept):
        for name in names:
            target = built / DEBUG / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                take_file(directory, name, target, limit_bytes=_FILE_LIMIT_BYTES)


def _debug_files(kept: KeptBuild) -> Iterator[tuple[Path, list[str]]]:
    """Yield each directory with the debug files in it: that beside vmlinux, those of `debug`, the build's modules."""
    beside = f"{kept.vmlinux.name}.debug"
    if (kept.vmlinux.parent / beside).is_file():
        yield kept.vmlinux.parent, [beside]
    if kept.debug is not None:
        _require_directory(kept.debug, "Give the directory of the kernel's debug files.")
        names = files_below(kept.debug)
        yield kept.debug, [one for one in names if one.endswith(_DEBUG_SUFFIXES) or is_kernel(one)]
    if kept.build is not None:
        _require_directory(kept.build, "Give the directory in which the kernel was built.")
        yield kept.build, [one for one in files_below(kept.build) if one.endswith(".ko")]


def is_kernel(name: str) -> bool:
    """Return if a debug file may be that of the kernel itself: vmlinux, vmlinux.debug, vmlinux-RELEASE.debug."""
    return Path(name).name.startswith(VMLINUX)


def _require_directory(path: Path, advice: str) -> None:
    if not path.is_dir():
        raise UsageError("file-missing", f"There is no directory {path}.", advice=advice)


def make_module_tree(built: Path, release: Release, stripped: Path, shipped: Path, into: Path) -> None:
    """Make the tree of modules without debug information, with the tables of the kernel's build beside them.

    The modules move there from `stripped`; one whose debug information is in a file of its own is in `shipped`.
    """
    into.mkdir()
    for name in files_below(built, installed(release)):
        target = into / name
        if name.endswith(".ko") and (stripped / target.name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            apart = shipped / name
            shutil.copyfile(apart if apart.is_file() else stripped / target.name, target)
        elif "/" not in name and not name.endswith(".debug"):
            take_file(built, f"{installed(release)}/{name}", target, limit_bytes=_FILE_LIMIT_BYTES)
