# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug files: the symbols and debug information of a stripped kernel or module, in a file of its own.

Fedora and RHEL ship `NAME.ko.debug`, SUSE also `vmlinux-RELEASE.debug`. Code is in the stripped file; the debug file
has sections without bytes in its place (objcopy --only-keep-debug). The build-id ties the two together.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.kept.files import DEBUG, IMAGE, installed, is_kernel
from elivepatch.build.kept.image import kernel_of_image
from elivepatch.build.kept.record import names_sources
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.build.sandbox.output import files_below
from elivepatch.files.atomic import move
from elivepatch.kernel.elf import SHT_NOBITS, ElfFile
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import VMLINUX, Release


@dataclass(frozen=True, slots=True)
class Parted:
    """Stripped files, set aside for their debug files: the modules below `modules`, and a file with vmlinux's code."""

    modules: Path
    code: Path | None = None


def put_in_place(built: Path, aside: Path, release: Release, helper: Sandbox) -> Parted:
    """Put each debug file below `built` in the place of its stripped file, which moves to the directory `aside`.

    Raises UsageError with the code `debug-file` if a debug file is of another build than its kernel or module, with
    `module-release` for a module of another kernel.
    """
    aside.mkdir()
    parted = aside / "modules"
    parted.mkdir()
    modules = built / installed(release)
    names = files_below(modules)
    debug = files_below(built / DEBUG) if (built / DEBUG).is_dir() else []
    known: dict[str, list[Path]] = {}
    for top, found in ((modules, [one for one in names if one.endswith(".ko.debug")]), (built / DEBUG, debug)):
        for name in found:
            known.setdefault(Path(name).name.removesuffix(".debug"), []).append(top / name)
    for name in names:
        if name.endswith(".ko"):
            _require_release(ElfFile(modules / name), release)
            _part_module(modules / name, known, parted / name)
    code = _part_kernel(built, [built / DEBUG / name for name in debug if is_kernel(name)], aside, helper)
    shutil.rmtree(built / DEBUG, ignore_errors=True)
    return Parted(parted, code)


def _part_module(module: Path, known: Mapping[str, Sequence[Path]], aside: Path) -> None:
    """Put the module's debug file in its place, or the module as the build left it: that still names its sources."""
    elf = ElfFile(module)
    if elf.has_debug_info:
        return
    found = _of_one_build(elf, known.get(module.name, ()), _has_debug_info)
    if found is None and not names_sources(elf):
        found = _of_one_build(elf, known.get(module.name, ()), names_sources)
    if found is not None:
        aside.parent.mkdir(parents=True, exist_ok=True)
        move(module, aside)
        move(found, module)


def _part_kernel(built: Path, debug: Sequence[Path], aside: Path, helper: Sandbox) -> Path | None:
    """Put vmlinux's debug file in its place; return the file with the code that the debug file lacks, if it does."""
    kernel = built / VMLINUX
    code: Path | None = aside / VMLINUX
    elf = ElfFile(kernel)
    if not elf.has_debug_info:
        found = _of_one_build(elf, debug, _has_debug_info)
        if found is None:
            return None
        move(kernel, aside / VMLINUX)
        move(found, kernel)
    elif not lacks_code(elf):
        return None
    else:
        code = kernel_of_image(built, IMAGE, aside / VMLINUX, helper)
        _require_build(ElfFile(code), ElfFile(kernel))
    return code if lacks_code(ElfFile(kernel)) else None


def _of_one_build(stripped: ElfFile, candidates: Sequence[Path], is_wanted: Callable[[ElfFile], bool]) -> Path | None:
    """Return the wanted file of the build of `stripped`, None if none is wanted.

    Raises UsageError if all that are wanted are of other builds.
    """
    files = [ElfFile(path) for path in candidates]
    informed = [elf for elf in files if is_wanted(elf)]
    for elf in informed:
        if stripped.build_id and elf.build_id == stripped.build_id:
            return elf.path
    if informed:
        _require_build(stripped, informed[0])
    return None


def _require_build(stripped: ElfFile, debug: ElfFile) -> None:
    if not stripped.build_id or stripped.build_id != debug.build_id:
        raise UsageError(
            "debug-file",
            f"The debug file {debug.path.name} is of another build ({debug.build_id or 'without a build-id'}) than "
            f"{stripped.path.name} ({stripped.build_id or 'without a build-id'}).",
            advice="Give the debug files of exactly this kernel: of the same package version.",
        )


def _require_release(module: ElfFile, release: Release) -> None:
    vermagic = " ".join(module.modinfo.get("vermagic", ()))
    if vermagic and vermagic.partition(" ")[0] != release:
        raise UsageError(
            "module-release",
            f"The module {module.path.name} is of the kernel {vermagic.partition(' ')[0][:80]}, not of {release}.",
            advice="Give lib/modules/RELEASE of exactly this kernel.",
        )


def _has_debug_info(elf: ElfFile) -> bool:
    return elf.has_debug_info


def lacks_code(elf: ElfFile) -> bool:
    """Return if a file has a place for its code but not the code, as debug files do."""
    text = elf.by_name.get(".text")
    return text is not None and text.kind == SHT_NOBITS
