# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the finished module against its kernel, before anybody may load it.

The kernel would find the same problems at load time, or only later (a wrong symbol position, a sealed entry). Its own
checks are in kernel/livepatch/core.c, kernel/module/version.c and arch/x86/kernel/alternative.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.base.store import Base
from elivepatch.build.checks.functions import Replaced, read_functions
from elivepatch.build.checks.lifetime import (
    Reference,
    check_lifetimes,
    check_own,
    check_plain,
    distance_of,
    holds_code_or_data,
    symbol_at,
)
from elivepatch.build.checks.references import HOLDING_POINTERS, Pointer, added_key, check_unsealed
from elivepatch.build.checks.unwind import check_unwind
from elivepatch.kernel.elf import (
    BIND_LOCAL,
    R_X86_64_PLT32,
    SHT_RELA,
    ElfFile,
    Relocation,
    Section,
    Symbol,
)
from elivepatch.kernel.exports import read_versions
from elivepatch.kernel.symbols import Block, LinkedSymbols
from elivepatch.kernel.traceable import TracedFunctions
from elivepatch.model.build import PatchedFunction
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.model.kernel import VMLINUX

_LIVEPATCH = 0xFF20  # SHN_LIVEPATCH
_KLP_SYMBOL = re.compile(r"\.klp\.sym\.([^.]+)\.(.+),(\d+)")
_KLP_RELOCATIONS = re.compile(r"\.klp\.rela\.([^.]+)\.(.+)")
_NAME_LIMIT = 55  # MODULE_NAME_LEN - 1
_MEMORY_LIMIT = 64 << 20
_ALIGNMENT_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Expected:
    """Expected place of one patched function: its symbol in the parent, from its source's block of symbols.

    Several may have one name: static functions of different files, which the kernel distinguishes by symbol position.
    """

    object: str
    source: str
    symbol: Symbol


def check_module(
    path: Path,
    name: str,
    base: Base,
    expected: Sequence[Expected],
    blocks: Mapping[str, Sequence[Block]],
) -> tuple[PatchedFunction, ...]:
    """Return the functions that the module at `path` replaces, after all checks.

    `expected` says where each function must be; `blocks` maps each object to the blocks of symbols that the patched
    sources have in it. Raises BuildStopped with `module-check`, `no-function-entry`, `freed-memory`,
    `module-symbol`, `jump-label`, `module-too-large` or `sealed-endbr`.
    """
    module = ElfFile(path)
    check_sizes(module)
    _check_identity(module, name, base)
    found = read_functions(module)
    if not found:
        raise _wrong("The module replaces no function")
    places = [find_place(one, expected, base.parent) for one in found]
    functions = [
        PatchedFunction(object=one.object, name=one.name, sympos=position, source=place.source)
        for one, (place, position) in zip(found, places, strict=True)
    ]
    check_entries(((place.object, place.symbol) for place, _ in places), base.parent)
    _check_symbols(module, base, blocks)
    check_own(module)
    check_unwind(module, base.vmlinux.elf)
    check_lifetimes(_references(module), base)
    if base.ibt:
        for pointer in _function_pointers(module):
            check_unsealed(pointer, base)
    return tuple(sorted(functions, key=lambda one: (one.object != VMLINUX, one.object, one.name, one.sympos)))


def check_sizes(module: ElfFile) -> None:
    """Raise BuildStopped with `module-too-large` if the module needs more memory than a livepatch may.

    A file of any size can ask for it: `.bss` has no bytes. Linux before 6.4 adds the sizes of the sections in 32 bits
    (module_get_offset in kernel/module/main.c), so 8 GiB count as nothing, and the data behind them is overwritten.
    """
    needed = sum(section.size + _ALIGNMENT_LIMIT for section in module.sections if section.loaded)
    if needed > _MEMORY_LIMIT:
        largest = max((section for section in module.sections if section.loaded), key=lambda one: one.size)
        raise BuildStopped(
            problem(
                "module-too-large",
                f"The livepatch needs {needed >> 20} MiB of memory, {largest.size >> 20} MiB of it for {largest.name}.",
            )
        )


def _check_identity(module: ElfFile, name: str, base: Base) -> None:
    if module.modinfo.get("livepatch") != ["Y"]:
        raise _wrong("The module is not marked as a livepatch")
    if module.modinfo.get("name") != [name] or len(name) > _NAME_LIMIT:
        raise _wrong(f"The module is called {module.modinfo.get('name')} instead of {name}")
    # A kernel may have everything built in; then only its own loader knows what a module must be like.
    vermagic = " ".join(module.modinfo.get("vermagic", ()))
    if not base.module_files:
        if vermagic.split(" ")[0] != base.release:
            raise _wrong(f"The module's vermagic is {vermagic}, the kernel is {base.release}")
        return
    shipped = ElfFile(next(iter(base.module_files.values())))
    theirs = " ".join(shipped.modinfo.get("vermagic", ()))
    if vermagic != theirs:
        raise _wrong(f"The module's vermagic is {vermagic}, the kernel's is {theirs}")
    mine, its = (file.by_name.get(".gnu.linkonce.this_module") for file in (module, shipped))
    if mine is None or its is None or mine.size != its.size:
        raise _wrong("The module's struct module has another size than the kernel's")


def find_place(
    replaced: Replaced, expected: Sequence[Expected], parent: Callable[[str], LinkedSymbols]
) -> tuple[Expected, int]:
    """Return which of `expected` a module replaces, and its symbol position in its parent.

    `parent` returns a parent's symbols; it is called for expected objects only. Raises BuildStopped with `module-check`
    if the module replaces another function, or one at another position.
    """
    named = [one for one in expected if (one.object, one.symbol.name) == (replaced.object, replaced.name)]
    if not named:
        raise _wrong(f"The module replaces {replaced.name} of {replaced.object}, which the series does not change")
    linked = parent(replaced.object)
    places = {linked.position(one.symbol): one for one in named}
    if replaced.sympos in places:
        return places[replaced.sympos], replaced.sympos
    if 0 in places and replaced.sympos == 1:
        return places[0], 0
    right = " or ".join(map(str, sorted(places)))
    raise _wrong(f"{replaced.name} is at symbol position {right}, the module says {replaced.sympos}")


def check_entries(functions: Iterable[tuple[str, Symbol]], parent: Callable[[str], LinkedSymbols]) -> None:
    """Raise BuildStopped with `init-code` or `no-function-entry` if a function of a parent cannot be redirected.

    `functions` are pairs of a parent's name and the function's symbol there, `parent` returns a parent's symbols.
    """
    traced: dict[str, TracedFunctions] = {}
    for object_name, symbol in functions:
        if object_name not in traced:
            traced[object_name] = TracedFunctions(parent(object_name))
        section = parent(object_name).elf.sections[symbol.section].name
        if section.startswith((".init", ".exit")):
            raise BuildStopped(problem("init-code", f"{symbol.name} lives in {section}."))
        if not traced[object_name].contains(symbol):
            raise BuildStopped(problem("no-function-entry", f"{symbol.name} of {object_name} cannot be traced."))


def _check_symbols(module: ElfFile, base: Base, blocks: Mapping[str, Sequence[Block]]) -> None:
    versions = read_versions(module)
    namespaces = set(module.modinfo.get("import_ns", []))
    table = module.by_name.get("__jump_table")
    jumps = {entry.symbol for entry in module.relocations(table)} if table else set()
    used = {entry.symbol for section in module.sections for entry in _effective(module, section)}
    for symbol in module.symbols:
        if not symbol.name or symbol.section not in {0, _LIVEPATCH}:
            continue
        if symbol.section == _LIVEPATCH and symbol.number not in used:
            # klp-build leaves such symbols at places that livepatch fills: nothing resolves them or refers to them.
            continue
        if found := _KLP_SYMBOL.fullmatch(symbol.name):
            object_name, name, position = found[1], found[2], int(found[3])
            same = base.parent(object_name).named.get(name, [])
            if not same or position > len(same) or (position == 0 and len(same) > 1):
                raise _wrong(f"{object_name} has no symbol {name} at position {position}")
            _check_block(same[max(position - 1, 0)], object_name, blocks.get(object_name, ()))
            continue
        export = base.exports.get(symbol.name)
        if export is None and symbol.bind == BIND_LOCAL and symbol.number in jumps:
            raise BuildStopped(added_key(symbol.name))
        if export is None:
            raise _wrong(f"The module needs {symbol.name}, which the kernel does not export")
        check_plain(symbol.name, export)
        if base.modversions and versions.get(symbol.name) != export.crc:
            raise _wrong(f"The module has another checksum for {symbol.name} than the kernel")
        if export.namespace and export.namespace not in namespaces:
            raise _wrong(f"The module does not import the namespace {export.namespace} of {symbol.name}")


def _check_block(symbol: Symbol, object_name: str, blocks: Sequence[Block]) -> None:
    """Raise if a local symbol is another file's: code of one file cannot refer to the static symbols of another."""
    place = (symbol.name, symbol.section, symbol.value)
    own = any(place == (one.name, one.section, one.value) for block in blocks for one in block.symbols)
    if symbol.bind == BIND_LOCAL and not own:
        raise _wrong(f"The module refers to {symbol.name} of {object_name}, which is another file's")


def _effective(module: ElfFile, table: Section) -> Iterable[Relocation]:
    """Return the entries of a .rela section that fill anything in."""
    return (entry for entry in module.entries(table) if entry.kind) if table.kind == SHT_RELA else ()


def _function_pointers(module: ElfFile) -> Iterable[Pointer]:
    for table in module.sections:
        target = _applied_to(module, table)
        if target is None or not target.startswith(HOLDING_POINTERS):
            continue
        for entry in module.entries(table):
            if entry.kind == R_X86_64_PLT32:
                continue  # a direct call or jump
            symbol = module.symbols[entry.symbol]
            if found := _KLP_SYMBOL.fullmatch(symbol.name):
                yield Pointer(object=found[1], name=found[2], position=int(found[3]))
            elif not symbol.defined and symbol.name:
                yield Pointer(object=VMLINUX, name=symbol.name, position=0)


def _references(module: ElfFile) -> Iterable[Reference]:
    for table in module.sections:
        found = _KLP_RELOCATIONS.fullmatch(table.name)
        target = _applied_to(module, table) or ""
        section = module.by_name.get(target) or module.by_name.get(target[1:])
        if found is None or section is None or not holds_code_or_data(module, section):
            continue
        for entry in module.entries(table):
            symbol = _KLP_SYMBOL.fullmatch(module.symbols[entry.symbol].name)
            if symbol is not None and entry.kind:
                yield Reference(
                    holder=symbol_at(module, section.number, entry.offset),
                    part=found[1],
                    object=symbol[1],
                    name=symbol[2],
                    position=int(symbol[3]),
                    distance=distance_of(entry.kind, entry.addend),
                )


def _applied_to(module: ElfFile, table: Section) -> str | None:
    if table.kind != SHT_RELA:
        return None
    found = _KLP_RELOCATIONS.fullmatch(table.name)
    if found:
        return found[2] if found[2].startswith(".") else f".{found[2]}"
    return module.sections[table.info].name if table.info < len(module.sections) else None


def _wrong(what: str) -> BuildStopped:
    return BuildStopped(problem("module-check", f"{what}."))
