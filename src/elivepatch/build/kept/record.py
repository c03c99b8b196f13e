# SPDX-License-Identifier: GPL-2.0-or-later
"""Proof that a record of a build is that of a kernel: its own symbol tables show each C source of the record.

A linked symbol table has an entry of type FILE for each C source, and the local symbols of its object behind it. The
sources of the record, each with the mark of its local symbols, must be those of vmlinux and of each module: none more,
none less, each as often. So no source that is built can count as not built. An object of assembly has such an entry,
by its own name, only if it has local symbols: these must be in the record; the others are proved by the C sources
beside them in the same list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from posixpath import normpath

from elivepatch.kernel.compile_units import module_name
from elivepatch.kernel.config import KernelConfig
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.kbuild.faults import kbuild_fault
from elivepatch.kernel.kbuild.record import BuiltObject, mark_of
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import VMLINUX

_SHOWN = 5
_NOT_RECORDED = {
    "RUST": "an object of Rust (CONFIG_RUST) has many sources, and its symbols name none of them",
    "CC_IS_CLANG": "clang's objects and the kernel that LLVM links have other local symbols (CONFIG_CC_IS_CLANG)",
}
# One is made for each module; newer kernels have one more, which all modules share.
_OF_MODULE, _OF_MODULES = ".mod.c", "module-common.c"
_SHARED = f"scripts/{_OF_MODULES}"


def proved_sources(
    record: Sequence[BuiltObject], vmlinux: Path, modules: Collection[Path]
) -> dict[str, tuple[str, set[str]]]:
    """Return a mapping of normalised source to (source as compiled, parents), as debug information gives it.

    `vmlinux` and `modules` are files with their symbols. Raises EnvironmentFault with the code `debug-info` if one of
    them names no sources, with `kbuild-files` if the record is not that of this kernel.
    """
    files = {VMLINUX: vmlinux} | {module_name(path.name): path for path in modules}
    by_parent: dict[str, list[BuiltObject]] = {}
    for one in record:
        by_parent.setdefault(one.parent, []).append(one)
    if missing := sorted(by_parent.keys() - files.keys()):
        raise kbuild_fault(f"The build made modules that are not among the kernel's files: {_listed(missing)}.")
    if unknown := sorted(files.keys() - by_parent.keys()):
        raise kbuild_fault(f"The record of the build lacks the objects of {_listed(unknown)}.")
    found = _by_source(record)
    for parent, path in sorted(files.items()):
        linked = LinkedSymbols(ElfFile(path), is_vmlinux=parent == VMLINUX)
        _require_same(parent, by_parent[parent], linked)
        if parent != VMLINUX and _OF_MODULES in linked.blocks:
            found.setdefault(_SHARED, (_SHARED, set()))[1].add(parent)
    return found


def require_recordable(config: KernelConfig) -> None:
    """Raise EnvironmentFault with the code `debug-info` if no record can show the sources of a kernel yet."""
    for option, why in _NOT_RECORDED.items():
        if config.enabled(option):
            raise EnvironmentFault(
                "debug-info",
                f"The kernel has no debug information, and its build does not show the sources instead: {why}.",
                advice="Build the kernel with CONFIG_DEBUG_INFO_DWARF5, and boot it.",
            )


def names_sources(elf: ElfFile) -> bool:
    """Return if a symbol table names the sources that a file was linked from."""
    return any(LinkedSymbols(elf, is_vmlinux=True).blocks)


def _require_same(parent: str, objects: Sequence[BuiltObject], linked: LinkedSymbols) -> None:
    shown = Counter(_shown_by(linked, parent))
    if not shown:
        raise EnvironmentFault(
            "debug-info",
            f"{parent} has neither debug information nor a symbol table that names its sources.",
            advice="Give vmlinux and the modules as the build left them, not stripped (INSTALL_MOD_STRIP). System.map "
            "does not do: it has no names of sources.",
        )
    recorded = Counter((PurePosixPath(one.source).name, one.mark) for one in objects if one.source.endswith(".c"))
    differing = sorted({name for name, _mark in (shown - recorded) + (recorded - shown)})
    differing += sorted({*_unknown_assembly(objects, linked), *_without_functions(objects, linked)})
    if differing:
        raise kbuild_fault(
            f"The record of the build is not that of this {parent}: {len(differing)} of its sources differ: "
            f"{_listed(differing)}.",
            excerpt="\n".join(differing[:200]),
        )


def _shown_by(linked: LinkedSymbols, parent: str) -> Iterator[tuple[str, str]]:
    """Yield file name and mark of each C source that a symbol table shows, without those that linking adds."""
    for name, blocks in linked.blocks.items():
        # Names that begin with a dot are of files that are made when the kernel is linked.
        added = name.startswith(".") or (parent != VMLINUX and (name.endswith(_OF_MODULE) or name == _OF_MODULES))
        if name.endswith(".c") and not added:
            yield from ((name, mark_of(block.names)) for block in blocks)


def _unknown_assembly(objects: Sequence[BuiltObject], linked: LinkedSymbols) -> Iterator[str]:
    """Yield the objects that a symbol table names itself, because no source does, and that are not in the record."""
    recorded = {PurePosixPath(one.source).stem for one in objects if not one.source.endswith(".c")}
    for name in linked.blocks:
        if name.endswith(".o") and not name.startswith(".") and name.removesuffix(".o") not in recorded:
            yield name


def _without_functions(objects: Sequence[BuiltObject], linked: LinkedSymbols) -> Iterator[str]:
    """Yield the sources without local symbols that define a function which the kernel does not have."""
    for one in objects:
        if not all(linked.named.get(function) for function in one.functions):
            yield PurePosixPath(one.source).name


def _by_source(record: Sequence[BuiltObject]) -> dict[str, tuple[str, set[str]]]:
    found: dict[str, tuple[str, set[str]]] = {}
    for one in record:
        raw, parents = found.setdefault(normpath(one.source), (one.source, set()))
        if one.parent in parents:
            raise kbuild_fault(f"{one.parent} has two objects of one source, {raw}; which is which is not known.")
        parents.add(one.parent)
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
