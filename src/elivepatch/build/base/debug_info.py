# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug information of a kernel: its symbols, the sources it was built from, the sizes of its tables' entries."""

from __future__ import annotations

import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from elivepatch.build.debug.package_files import package_files
from elivepatch.build.debug.symbol_tables import symbols_alone
from elivepatch.build.debug.unit_names import has_compressed_sections, unit_names
from elivepatch.build.kept.record import proved_sources
from elivepatch.build.kept.tables import require_tables
from elivepatch.build.roots.description import Toolchain
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import files_below, take, take_file
from elivepatch.kernel.compile_units import module_name, read_compile_units
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.kbuild.record import BuiltObject
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import VMLINUX
from elivepatch.process import Cancellation, Completed

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
_KERNEL = f"""
set -e
{_STRIP} "/in/$1" /out/vmlinux
pahole -F btf -s /out/vmlinux >/out/sizes 2>/dev/null || pahole -F dwarf -s "/in/$1" >/out/sizes || :
"""
_MODULES = f"""
cd /in
find . -name '*.ko' -print0 | xargs -0 -r -P2 -n1 sh -c '{_STRIP} "$1" "/out/${{1##*/}}"' sh
"""
_DECOMPRESSED_LIMIT_BYTES = 4 << 30
_PIECE_BYTES = 1 << 20
_DECOMPRESSED = 'objcopy --decompress-debug-sections "/in/$1" /out/plain'
_MODULE = re.compile(r"usr/lib/debug/(?:.*/)?[^/]+\.ko(?:\.debug)?")


@dataclass(frozen=True, slots=True)
class DebugInfo:
    """`compiled` maps a normalised source to (source as compiled, parents); `struct_sizes` are in bytes."""

    compiled: dict[str, tuple[str, set[str]]]
    struct_sizes: dict[str, int]


class DebugReader:
    """Reader of a kernel and its modules, one after the other.

    It leaves the kernel without debug information, and the symbols of each module, in the directory `into`. `record` is
    that of the build of a kernel without debug information; the sizes of structures are then not known.
    """

    def __init__(
        self,
        helper: Sandbox,
        into: Path,
        record: Sequence[BuiltObject] | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        self._helper = helper
        self._into = into
        self._record = record
        self._cancellation = cancellation
        self._kernel: dict[str, tuple[str, set[str]]] = {}
        self._modules: dict[str, dict[str, tuple[str, set[str]]]] = {}
        self._listing = ""
        (into / "symbols").mkdir()

    def kernel(self, inputs: Path, name: str) -> None:
        """Read vmlinux, the file `name` of the directory `inputs`. Raises EnvironmentFault if its units are unknown."""
        with self._output() as stripped:
            done = self._run(["sh", "-c", _KERNEL, "sh", name], inputs, stripped)
            done.check("Reading the kernel's debug information")
            # The programs have parsed a stranger's kernel: their output is as untrusted as the kernel.
            self._listing = take(stripped, "sizes", limit_bytes=_LISTING_LIMIT_BYTES).decode(errors="replace")
            take_file(stripped, VMLINUX, self._into / VMLINUX, limit_bytes=_KERNEL_LIMIT_BYTES)
        self._kernel = self._units(inputs, name, VMLINUX)
        if not self._kernel and self._record is None:
            raise EnvironmentFault(
                "debug-info",
                "The kernel has no debug information: the sources it was built from are not known.",
                advice="Give the vmlinux as the build left it, not stripped, of a kernel with CONFIG_DEBUG_INFO; or "
                "the directory in which it was built, with all that the build left there (--build).",
            )

    def module(self, inputs: Path, name: str, shipped: str) -> None:
        """Read a module, the file `name` of the directory `inputs`; `shipped` is its path among the modules."""
        file_name = PurePosixPath(shipped).name.removesuffix(".debug")
        self._modules[shipped] = self._units(inputs, name, module_name(file_name))
        (self._into / "symbols" / file_name).write_bytes(symbols_alone(ElfFile(inputs / name)))

    def facts(self) -> DebugInfo:
        """Return what was read. Raises EnvironmentFault if a module has neither debug information nor a record."""
        if self._record is not None:
            symbols = [self._into / "symbols" / name for name in files_below(self._into / "symbols")]
            return DebugInfo(proved_sources(self._record, self._into / VMLINUX, symbols), {})
        sizes = struct_sizes(self._listing)
        compiled = {source: (raw, set(parents)) for source, (raw, parents) in self._kernel.items()}
        for shipped in sorted(self._modules):
            for source, (raw, parents) in self._modules[shipped].items():
                compiled.setdefault(source, (raw, set()))[1].update(parents)
        _require_modules(compiled, [PurePosixPath(shipped).name for shipped in self._modules])
        return DebugInfo(compiled, sizes)

    def _units(self, inputs: Path, name: str, parent: str) -> dict[str, tuple[str, set[str]]]:
        elf = ElfFile(inputs / name)
        if not has_compressed_sections(elf):
            return read_compile_units(unit_names(elf), parent=parent)
        with self._output() as output:
            self._run(["sh", "-c", _DECOMPRESSED, "sh", name], inputs, output).check("Decompressing debug information")
            plain = take_file(output, "plain", output.parent / "plain", limit_bytes=_DECOMPRESSED_LIMIT_BYTES)
            return read_compile_units(unit_names(ElfFile(plain)), parent=parent)

    def _run(self, command: list[str], inputs: Path, output: Path) -> Completed:
        return self._helper.run(command, inputs=inputs, output=output, timeout_s=1800, cancellation=self._cancellation)

    @contextmanager
    def _output(self) -> Iterator[Path]:
        place = Path(tempfile.mkdtemp(prefix=".debug-", dir=self._into))
        try:
            place.chmod(0o755)
            yield writable_directory(place / "out")
        finally:
            shutil.rmtree(place, ignore_errors=True)


def read_debug_info(
    helper: Sandbox,
    *,
    inputs: Path,
    vmlinux: str,
    into: Path,
    record: Sequence[BuiltObject] | None = None,
    cancellation: Cancellation | None = None,
) -> DebugInfo:
    """Read `vmlinux` and all modules below `inputs`, and leave in `into` what `DebugReader` leaves there.

    `record` is as there. Raises EnvironmentFault if one of them has no debug information and no record of its objects.
    """
    reader = DebugReader(helper, into, record, cancellation)
    reader.kernel(inputs, vmlinux)
    for name in files_below(inputs):
        if name.endswith(".ko"):
            reader.module(inputs, name, name)
    return reader.facts()


def read_debug_package(
    helper: Sandbox, *, package: Path, release: str, into: Path, cancellation: Cancellation | None = None
) -> DebugInfo:
    """Read a distribution's debug package as `read_debug_info` reads files; each module is gone when the next comes."""
    reader = DebugReader(helper, into, cancellation=cancellation)
    kernels = {f"usr/lib/debug/{place}" for place in (f"boot/vmlinux-{release}", f"usr/lib/modules/{release}/vmlinux")}
    scratch = into / "debug"
    scratch.mkdir()
    with package_files(package, helper, cancellation) as files:
        for member, stream in files:
            name = posixpath.normpath(member)
            if name in kernels:
                _write(stream, scratch / VMLINUX)
            elif _MODULE.fullmatch(name):
                _write(stream, scratch / "module.ko")
                reader.module(scratch, "module.ko", name)
                (scratch / "module.ko").unlink()
    if not (scratch / VMLINUX).exists():
        raise EnvironmentFault(
            "package-layout",
            f"The kernel's debug package holds no {min(kernels)}.",
            advice="This distribution release has a layout of kernel packages that is not known yet.",
        )
    reader.kernel(scratch, VMLINUX)
    shutil.rmtree(scratch)
    return reader.facts()


def strip_modules(helper: Sandbox, *, inputs: Path, into: Path) -> None:
    """Write each module below `inputs` without its debug information to the new directory `into`, by its file name."""
    stripped = writable_directory(into.with_name(f"{into.name}-out"))
    helper.run(["sh", "-c", _MODULES], inputs=inputs, output=stripped, timeout_s=1800).check("Stripping modules")
    into.mkdir()
    for name in files_below(stripped):
        take_file(stripped, name, into / name, limit_bytes=_KERNEL_LIMIT_BYTES)
    shutil.rmtree(stripped)


def _write(stream: IO[bytes], path: Path) -> None:
    with path.open("xb") as file:
        shutil.copyfileobj(stream, file, _PIECE_BYTES)


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
    named = {module_name(name) for name in files}
    known = {parent for _raw, parents in compiled.values() for parent in parents}
    if missing := sorted(named - known):
        shown = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
        raise EnvironmentFault(
            "debug-info",
            f"{len(missing)} of {len(named)} modules have no debug information; their sources are not known: {shown}.",
            advice="Give the modules as the build left them, not stripped (INSTALL_MOD_STRIP).",
        )


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
