# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug information of a kernel: its symbols, the sources it was built from, the sizes of its tables' entries."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.kept.record import proved_sources
from elivepatch.build.kept.tables import require_tables
from elivepatch.build.roots.description import Toolchain
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import files_below, take, take_file
from elivepatch.kernel.compile_units import read_compile_units
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.kbuild.record import BuiltObject
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import VMLINUX
from elivepatch.process import Cancellation

_STRUCTS = {
    "alt_instr": "ALT_STRUCT_SIZE",
    "bug_entry": "BUG_STRUCT_SIZE",
    "exception_table_entry": "EX_STRUCT_SIZE",
    "jump_entry": "JUMP_STRUCT_SIZE",
    "orc_entry": "ORC_STRUCT_SIZE",
    "static_call_site": "STATIC_CALL_STRUCT_SIZE",
    "paravirt_patch_site": "PARA_STRUCT_SIZE",
}
# A configuration or a version without the feature has neither the structure nor a table of them.
_MAY_BE_ABSENT = {"BUG_STRUCT_SIZE", "JUMP_STRUCT_SIZE", "STATIC_CALL_STRUCT_SIZE", "PARA_STRUCT_SIZE"}
_CLANG = re.compile(r"(?!Linker:)[^:]*clang version ")
_LISTING_LIMIT_BYTES = 256 << 20
_KERNEL_LIMIT_BYTES = 2 << 30
_STRIP = "objcopy --strip-debug --keep-file-symbols"
_LISTING = "readelf -wi --dwarf-depth=1 {} 2>/dev/null | grep -E '^File: |DW_AT_name'"
# The stripped kernel is listed beside the modules because readelf names files only if it reads several.
_SCRIPT = f"""
set -e
{_STRIP} "/in/$1" /out/vmlinux
pahole -F btf -s /out/vmlinux >/out/sizes 2>/dev/null || pahole -F dwarf -s "/in/$1" >/out/sizes || :
{_LISTING.format('"/in/$1"')} >/out/vmlinux.units || :
cd /in
find . -name '*.ko' | sort | xargs -r {_LISTING.format("/out/vmlinux")} >/out/modules.units || :
mkdir /out/symbols
find . -name '*.ko' -print0 | xargs -0 -r -P2 -n1 sh -c '{_STRIP} "$1" "/out/symbols/${{1##*/}}"' sh
"""


@dataclass(frozen=True, slots=True)
class DebugInfo:
    """`compiled` maps a normalised source to (source as compiled, parents); `struct_sizes` are in bytes."""

    compiled: dict[str, tuple[str, set[str]]]
    struct_sizes: dict[str, int]


def read_debug_info(
    helper: Sandbox,
    *,
    inputs: Path,
    vmlinux: str,
    into: Path,
    record: Sequence[BuiltObject] | None = None,
    cancellation: Cancellation | None = None,
) -> DebugInfo:
    """Read `vmlinux` and all modules below `inputs`; write both without debug information to `into` and `into`/symbols.

    `record` is that of the build of a kernel without debug information; the sizes of structures are then not known.
    Raises EnvironmentFault if one of them has no debug information and no record of its objects.
    """
    stripped = writable_directory(into / "stripped")
    command = ["sh", "-c", _SCRIPT, "sh", vmlinux]
    helper.run(command, inputs=inputs, output=stripped, timeout_s=1800, cancellation=cancellation).check(
        "Reading the kernel's debug information"
    )
    # The programs have parsed a stranger's kernel: their output is as untrusted as the kernel.
    compiled = read_compile_units(_lines(stripped, "vmlinux.units"), parent=VMLINUX)
    if not compiled and record is None:
        raise EnvironmentFault(
            "debug-info",
            "The kernel has no debug information: the sources it was built from are not known.",
            advice="Give the vmlinux as the build left it, not stripped, of a kernel with CONFIG_DEBUG_INFO; or the "
            "directory in which it was built, with all that the build left there (--build).",
        )
    for source, (raw, parents) in read_compile_units(_lines(stripped, "modules.units")).items():
        compiled.setdefault(source, (raw, set()))[1].update(parents)
    listing = "\n".join(_lines(stripped, "sizes"))
    take_file(stripped, VMLINUX, into / VMLINUX, limit_bytes=_KERNEL_LIMIT_BYTES)
    (into / "symbols").mkdir()
    names = files_below(stripped, "symbols")
    for name in names:
        take_file(stripped, f"symbols/{name}", into / "symbols" / name, limit_bytes=_KERNEL_LIMIT_BYTES)
    shutil.rmtree(stripped)
    if record is not None:
        sources = proved_sources(record, into / VMLINUX, [into / "symbols" / name for name in names])
        return DebugInfo(sources, {})
    sizes = struct_sizes(listing)
    _require_modules(compiled, names)
    return DebugInfo(compiled, sizes)


def measured_sizes(structures: Path, helper: Sandbox, vmlinux: Path) -> dict[str, int]:
    """Return the sizes of the structures in the debug information of the object `structures`.

    Raises EnvironmentFault with the code `struct-sizes` if one is missing or does not fit its table in `vmlinux`.
    """
    done = helper.run(["pahole", "-F", "dwarf", "-s", f"/in/{structures.name}"], inputs=structures.parent)
    done.check("Measuring the kernel's tables")
    sizes = struct_sizes(done.text)
    require_tables(sizes, LinkedSymbols(ElfFile(vmlinux), is_vmlinux=True))
    return sizes


def _require_modules(compiled: Mapping[str, tuple[str, set[str]]], files: Sequence[str]) -> None:
    """Raise EnvironmentFault if a module has no debug information: its sources would count as not built.

    A patch of such sources needs no livepatch, so the answer would be a wrong "not affected".
    """
    named = {name.split(".ko")[0].replace("-", "_") for name in files}
    known = {parent for _raw, parents in compiled.values() for parent in parents}
    if missing := sorted(named - known):
        shown = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
        raise EnvironmentFault(
            "debug-info",
            f"{len(missing)} of {len(named)} modules have no debug information; their sources are not known: {shown}.",
            advice="Give the modules as the build left them, not stripped (INSTALL_MOD_STRIP).",
        )


def _lines(directory: Path, name: str) -> list[str]:
    return take(directory, name, limit_bytes=_LISTING_LIMIT_BYTES).decode(errors="replace").splitlines()


def check_compiler(elf: ElfFile, toolchain: Toolchain, release: str) -> None:
    """Raise EnvironmentFault if the compiler named in the kernel is not the toolchain's."""
    # rustc also leaves its name there; its version is part of the configuration, which config_gate compares.
    # lld leaves `Linker: LLD ...`.
    parts = [part.decode(errors="replace") for part in elf.named(".comment").split(b"\0")]
    comments = {part for part in parts if part.startswith("GCC") or _CLANG.match(part)}
    if comments != {toolchain.comment}:
        raise EnvironmentFault(
            "toolchain-match",
            f"The kernel {release} was built by {', '.join(sorted(comments)) or 'an unknown compiler'}, "
            f"but the compiler that its configuration names writes {toolchain.comment}.",
            advice="The debug package does not belong to this image; remove the downloaded packages and try again.",
        )


def struct_sizes(listing: str) -> dict[str, int]:
    """Return the sizes that create-diff-object needs, from pahole's listing of all structures."""
    sizes = dict.fromkeys(_MAY_BE_ABSENT, 0)
    for line in listing.splitlines():
        name, size, *_ = (*line.split("\t"), "", "")
        if name in _STRUCTS:
            sizes[_STRUCTS[name]] = int(size)
    missing = sorted(set(_STRUCTS.values()) - set(sizes))
    if missing:
        raise EnvironmentFault(
            "struct-sizes",
            f"The kernel's type information lacks the structure for {missing[0]}.",
            advice="The kernel must be built with CONFIG_UNWINDER_ORC, and its vmlinux have its debug information.",
        )
    return sizes
