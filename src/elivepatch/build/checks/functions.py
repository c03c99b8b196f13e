# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that a livepatch module replaces, in kpatch's format and in that of the kernel's own klp-build.

kpatch: struct kpatch_patch_func of kpatch-patch.h, an array in .kpatch.funcs. klp-build: struct klp_object_ext and
struct klp_func_ext of include/linux/livepatch_external.h, arrays in .init.klp_objects and .init.klp_funcs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from elivepatch.kernel.elf import ElfFile, Relocation, Section
from elivepatch.model.kernel import VMLINUX

_KPATCH_BYTES = 56
_KPATCH_SYMPOS, _KPATCH_NAME, _KPATCH_OBJECT = 32, 40, 48
_OBJECT_BYTES, _OBJECT_NAME, _OBJECT_FUNCS, _OBJECT_COUNT = 64, 0, 8, 56
_FUNC_BYTES, _FUNC_NAME, _FUNC_SYMPOS = 24, 0, 16
_UNSIGNED_LONG, _UNSIGNED_INT = struct.Struct("<Q"), struct.Struct("<I")


class Replaced(NamedTuple):
    """A function that a module replaces; `sympos` as the kernel counts it, 0 for a unique name."""

    object: str
    name: str
    sympos: int


def read_functions(module: ElfFile) -> tuple[Replaced, ...]:
    """Return the functions that the module replaces, in its own order; empty if it is not a livepatch."""
    return (*_kpatch(module), *_klp(module))


def _kpatch(module: ElfFile) -> Iterator[Replaced]:
    section = module.by_name.get(".kpatch.funcs")
    if section is None:
        return
    raw, places = module.content(section), pointers_of(module, section)
    for start in range(0, len(raw) - len(raw) % _KPATCH_BYTES, _KPATCH_BYTES):
        name, object_name = (text_at(module, places.get(start + at)) for at in (_KPATCH_NAME, _KPATCH_OBJECT))
        yield Replaced(object_name, name, _UNSIGNED_LONG.unpack_from(raw, start + _KPATCH_SYMPOS)[0])


def _klp(module: ElfFile) -> Iterator[Replaced]:
    objects, functions = (module.by_name.get(f".init.klp_{what}") for what in ("objects", "funcs"))
    if objects is None or functions is None:
        return
    raw, places = module.content(objects), pointers_of(module, objects)
    funcs, names = module.content(functions), pointers_of(module, functions)
    for start in range(0, len(raw) - len(raw) % _OBJECT_BYTES, _OBJECT_BYTES):
        name = places.get(start + _OBJECT_NAME)
        object_name = VMLINUX if name is None else text_at(module, name)
        first = places.get(start + _OBJECT_FUNCS)
        at = 0 if first is None else module.symbols[first.symbol].value + first.addend
        for _ in range(_UNSIGNED_INT.unpack_from(raw, start + _OBJECT_COUNT)[0]):
            if not 0 <= at <= len(funcs) - _FUNC_BYTES:
                return
            sympos = _UNSIGNED_LONG.unpack_from(funcs, at + _FUNC_SYMPOS)[0]
            yield Replaced(object_name, text_at(module, names.get(at + _FUNC_NAME)), sympos)
            at += _FUNC_BYTES


def pointers_of(module: ElfFile, section: Section) -> dict[int, Relocation]:
    """Return the pointers in a section by their offset."""
    return {entry.offset: entry for entry in module.relocations(section)}


def text_at(module: ElfFile, pointer: Relocation | None) -> str:
    """Return the string that a pointer leads to, empty if it leads nowhere in the file."""
    if pointer is None or not (symbol := module.symbols[pointer.symbol]).defined:
        return ""
    content = module.content(module.sections[symbol.section])
    start = max(symbol.value + pointer.addend, 0)
    return content[start : max(content.find(b"\0", start), start)].decode(errors="replace")
