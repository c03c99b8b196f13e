# SPDX-License-Identifier: GPL-2.0-or-later
"""Places of the members of a few kernel structures, from the BTF in vmlinux.

`kernel/btf.py` reads all types, which takes more than a second for a whole kernel. This reader passes over what it was
not asked for. Format: the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_TYPE = struct.Struct("<III")  # name_off, info, size or type
_MEMBER = struct.Struct("<III")  # name_off, type, offset
_MAGIC = 0xEB9F
_STRUCT = 4
# Bytes that follow the head of each kind, once, and for each of its entries (BTF_KIND_*).
_ONCE = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_KINDS = 19


@dataclass(frozen=True, slots=True)
class Structure:
    """Size of a structure, and the places of its members, in bytes."""

    size: int
    members: Mapping[str, int]


def read_layouts(btf: bytes, tags: Collection[str]) -> dict[str, Structure]:
    """Return the structures with these tags, those that are not in `btf` left out; nothing for damaged content."""
    try:
        return _read(btf, tags)
    except (struct.error, ValueError):
        return {}


def _read(btf: bytes, tags: Collection[str]) -> dict[str, Structure]:
    magic, _version, _flags, length, types_at, types_size, names_at, names_size = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        return {}
    names = btf[length + names_at : length + names_at + names_size]
    wanted = {at: tag for tag in tags for at in _places(names, tag)}
    found: dict[str, Structure] = {}
    at, end = length + types_at, min(len(btf), length + types_at + types_size)
    while at < end:
        name, info, size = _TYPE.unpack_from(btf, at)
        at += _TYPE.size
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if not 0 < kind <= _KINDS:
            return {}
        if kind == _STRUCT and name in wanted and count:
            mask = 0xFFFFFF if info >> 31 else 0xFFFFFFFF
            members = {
                _name(names, member): (offset & mask) // 8
                for member, _type, offset in _MEMBER.iter_unpack(btf[at : at + count * _MEMBER.size])
            }
            found.setdefault(wanted[name], Structure(size, members))
        at += _ONCE.get(kind, 0) + _EACH.get(kind, 0) * count
    return found


def _places(names: bytes, tag: str) -> list[int]:
    """Return where the whole string `tag` may begin: strings may share their ends."""
    text, places, at = tag.encode() + b"\0", [], 0
    while (at := names.find(text, at)) >= 0:
        places.append(at)
        at += 1
    return places


def _name(names: bytes, at: int) -> str:
    return names[at : names.index(b"\0", at)].decode(errors="replace")
