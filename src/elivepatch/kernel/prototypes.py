# SPDX-License-Identifier: GPL-2.0-or-later
"""Prototypes of the kernel's functions, from BTF (Documentation/bpf/btf.rst). A module's continues that of vmlinux."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from elivepatch.kernel.elf import ElfFile

_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_TYPE, _PARAMETER = struct.Struct("<III"), struct.Struct("<II")
_MAGIC = 0xEB9F
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC = 8, 9, 10, 11, 12, 13, 14, 15
_DECL_TAG, _TYPE_TAG, _ENUM64 = 17, 18, 19
_MODIFIERS = frozenset((_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG))
# Bytes behind a type's header: for itself, and for each member.
_EXTRA: Mapping[int, tuple[int, int]] = {
    _INT: (4, 0), _ARRAY: (12, 0), _STRUCT: (0, 12), _UNION: (0, 12), _ENUM: (0, 8), _FUNC_PROTO: (0, 8), _VAR: (4, 0),
    _DATASEC: (0, 12), _DECL_TAG: (4, 0), _ENUM64: (0, 12),
}  # fmt: skip


class Prototype(NamedTuple):
    """Shape of a function: its number of parameters, None if it takes any; whether its result is a pointer."""

    parameters: int | None
    returns_pointer: bool


class _Types(NamedTuple):
    """Types of one file: `first` is the number of its first one, `start` that of its first string."""

    first: int
    start: int
    types: tuple[tuple[int, int, int, int], ...]
    strings: bytes
    raw: bytes


@lru_cache(maxsize=8)
def prototypes(vmlinux: ElfFile, module: ElfFile | None) -> Mapping[str, Prototype]:
    """Return the functions of the kernel, or of a module of it, by name; empty if the file has no BTF.

    Functions of one name that differ have the most parameters of them.
    """
    base = _read(vmlinux, 1, 0)
    own = base if module is None else _read(module, base.first + len(base.types), base.start + len(base.strings))
    found: dict[str, Prototype] = {}
    for name_at, kind, _, to in own.types:
        if kind != _FUNC or (shape := _shape(to, own, base)) is None:
            continue
        name = _text(name_at, own, base)
        known = found.get(name, shape)
        several = None in {known.parameters, shape.parameters}
        count = None if several else max(known.parameters or 0, shape.parameters or 0)
        found[name] = Prototype(count, known.returns_pointer or shape.returns_pointer)
    return found


def _read(elf: ElfFile, first: int, start: int) -> _Types:
    raw = elf.named(".BTF")
    if len(raw) < _HEADER.size or _HEADER.unpack_from(raw)[0] != _MAGIC:
        return _Types(first, start, (), b"", b"")
    _, _, _, length, type_at, type_length, text_at, text_length = _HEADER.unpack_from(raw)
    types = raw[length + type_at :][:type_length]
    return _Types(first, start, tuple(_entries(types)), raw[length + text_at :][:text_length], types)


def _entries(raw: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield name, kind, place of the members and target of each type."""
    at = 0
    while at + _TYPE.size <= len(raw):
        name, info, to = _TYPE.unpack_from(raw, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        itself, member = _EXTRA.get(kind, (0, 0))
        end = at + _TYPE.size + itself + member * count
        if end > len(raw):
            return
        yield name, kind, (at + _TYPE.size) << 16 | count, to
        at = end


def _type(number: int, own: _Types, base: _Types) -> tuple[tuple[int, int, int, int], _Types] | None:
    for types in (own, base):
        if 0 <= number - types.first < len(types.types):
            return types.types[number - types.first], types
    return None


def _shape(number: int, own: _Types, base: _Types) -> Prototype | None:
    found = _type(number, own, base)
    if found is None or found[0][1] != _FUNC_PROTO:
        return None
    (_, _, packed, result), types = found
    at, count = packed >> 16, packed & 0xFFFF
    last = _PARAMETER.unpack_from(types.raw, at + _PARAMETER.size * (count - 1)) if count else (1, 1)
    return Prototype(None if last == (0, 0) else count, _is_pointer(result, own, base))


def _is_pointer(number: int, own: _Types, base: _Types) -> bool:
    for _ in range(32):
        found = _type(number, own, base)
        if found is None:
            return False
        _, kind, _, to = found[0]
        if kind not in _MODIFIERS:
            return kind == _PTR
        number = to
    return True


def _text(at: int, own: _Types, base: _Types) -> str:
    types = own if at >= own.start and own.strings else base
    at -= types.start
    return types.strings[at : types.strings.find(b"\0", at)].decode(errors="replace")
