# SPDX-License-Identifier: GPL-2.0-or-later
"""Types in the words of C, short enough for a message."""

from __future__ import annotations

from elivepatch.kernel.btf import COMPOSITES, Btf, BtfKind, Member

_DEPTH, _LENGTH = 6, 160
_TAGGED = {
    BtfKind.STRUCT: "struct",
    BtfKind.UNION: "union",
    BtfKind.FORWARD: "struct",
    BtfKind.ENUM: "enum",
    BtfKind.ENUM64: "enum",
}


def declared(btf: Btf, number: int, name: str = "", *, depth: int = 0) -> str:
    """Return the declaration of `name` with a type, or the type alone; qualifiers are left out."""
    one = btf.unqualified(number)
    if depth > _DEPTH or len(name) > _LENGTH:
        return f"... {name}"
    if one.kind is BtfKind.POINTER:
        inner = btf.unqualified(one.target)
        pointed = f"(*{name})" if inner.kind in {BtfKind.PROTOTYPE, BtfKind.ARRAY} else f"*{name}"
        return declared(btf, one.target, pointed, depth=depth + 1)
    if one.kind is BtfKind.ARRAY:
        return declared(btf, one.target, f"{name}[{one.length}]", depth=depth + 1)
    if one.kind is BtfKind.PROTOTYPE:
        parameters = ", ".join(_parameter(btf, member, depth + 1) for member in one.members[:12])
        return declared(btf, one.target, f"{name}({parameters or 'void'})", depth=depth + 1)
    text = one.name or "{ }"
    if one.kind in _TAGGED:
        text = f"{_TAGGED[one.kind]} {text}"
    return f"{text} {name}".rstrip()


def listed(btf: Btf, number: int, *, start: int = 0, depth: int = 0) -> list[str]:
    """Return the members of a structure as lines `declaration; /* byte size */`, inner ones indented.

    `start` is the place of the structure in the outermost one, in bits.
    """
    lines = []
    for member in btf.types[number].members:
        inner = btf.unqualified(member.type)
        offset = start + member.offset
        place = f"{offset // 8}:{offset % 8}" if member.width else str(offset // 8)
        extent = f"{member.width} bits" if member.width else str(btf.size_of(member.type))
        shown = declared(btf, member.type, member.name)
        lines.append(f"{'  ' * depth}{shown}{f':{member.width}' if member.width else ''}; /* {place} {extent} */")
        if inner.kind in COMPOSITES and not inner.name and depth < _DEPTH:
            lines += listed(btf, inner.number, start=offset, depth=depth + 1)
    return lines


def _parameter(btf: Btf, member: Member, depth: int) -> str:
    return "..." if not member.type and not member.name else declared(btf, member.type, depth=depth)
