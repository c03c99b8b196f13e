# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of the original object from which create-diff-object sees the same differences as the account.

The tool reads the original only to compare: every byte of its output comes from the patched object. A section of
another size differs for it, without a look at the instructions (kpatch_compare_correlated_section). Constants that the
compiler only gave other numbers are the same for it if they have the same names in both objects (rela_equal).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from elivepatch.build.account.account import Account
from elivepatch.build.account.image import Image, Piece
from elivepatch.kernel.elf import SHT_RELA, Relocation, Section

# Offsets in System V ABI's headers: e_shoff; sh_offset and sh_size; st_name; r_addend.
_SECTIONS_AT, _HEADER_BYTES, _OFFSET_AT, _SIZE_AT = 40, 64, 24, 32
_SYMBOL_BYTES, _RELOCATION_BYTES, _ADDEND_AT = 24, 24, 16
_LONG, _INT = struct.Struct("<Q"), struct.Struct("<I")
_RELOCATION = struct.Struct("<QQq")
# Names that the compiler and the kernel's macros number through the whole object.
_NUMBERED = re.compile(r"\.LC\d+|__UNIQUE_ID_\w+?\d+(?:\.\d+)?")


def write_original(account: Account, place: Path) -> Path:
    """Write the copy of the original object of `account` to `place`; return `place`."""
    content = bytearray(account.before.elf.path.read_bytes())
    (start,) = _LONG.unpack_from(content, _SECTIONS_AT)
    for section in {old.section.number: old.section for old, _ in account.functions()}.values():
        if section.size:
            _LONG.pack_into(content, start + section.number * _HEADER_BYTES + _SIZE_AT, section.size - 1)
    names, addends = _renumbered(account)
    for section, entry, addend in addends:
        _write_addend(content, account.before, section, entry, addend)
    _write_names(content, start, account.before, names)
    place.write_bytes(content)
    return place


def _unchanged(account: Account) -> Iterator[tuple[Piece, Piece]]:
    for kind, old in account.before.pieces.items():
        new = account.after.pieces.get(kind)
        if old.is_code and new is not None and old.key not in account.replaced:
            yield old, new


def _renumbered(account: Account) -> tuple[dict[int, str], list[tuple[Section, Relocation, int]]]:
    """Return the names that symbols have in the patched object, and the addends of references, where only they differ.

    A symbol that would need two names keeps its own.
    """
    names: dict[int, set[str]] = {}
    addends: list[tuple[Section, Relocation, int]] = []
    before, after = account.before, account.after
    for old, new in _unchanged(account):
        one, other = (image.relocations(piece.section, piece.start, piece.end)
                      for image, piece in ((before, old), (after, new)))  # fmt: skip
        for first, second in zip(one, other, strict=False):
            here, there = before.elf.symbols[first.symbol], after.elf.symbols[second.symbol]
            if not here.defined or not there.defined:
                continue
            if _NUMBERED.fullmatch(here.name) and _NUMBERED.fullmatch(there.name):
                names.setdefault(here.number, set()).add(there.name)
            section = before.elf.sections[here.section]
            unnamed = section.merged or section.name == ".rodata"
            if unnamed and not section.strings and here.name == there.name and first.addend != second.addend:
                addends.append((old.section, first, second.addend))
    wanted = {number: found.pop() for number, found in names.items() if len(found) == 1}
    return {number: name for number, name in wanted.items() if before.elf.symbols[number].name != name}, addends


def _write_addend(content: bytearray, image: Image, section: Section, entry: Relocation, addend: int) -> None:
    wanted = (entry.offset, entry.symbol << 32 | entry.kind, entry.addend)
    for table in image.elf.sections:
        if table.kind == SHT_RELA and table.info == section.number:
            for at in range(table.offset, table.offset + table.size - _RELOCATION_BYTES + 1, _RELOCATION_BYTES):
                if _RELOCATION.unpack_from(content, at) == wanted:
                    struct.pack_into("<q", content, at + _ADDEND_AT, addend)


def _write_names(content: bytearray, start: int, image: Image, names: dict[int, str]) -> None:
    """Give symbols other names, in a longer copy of the table of names at the end of the file."""
    table = image.elf.by_name.get(".symtab")
    if table is None or not names:
        return
    strings = image.elf.sections[table.link]
    longer = bytearray(image.elf.content(strings))
    for number, name in names.items():
        _INT.pack_into(content, table.offset + number * _SYMBOL_BYTES, len(longer))
        longer += name.encode() + b"\0"
    header = start + strings.number * _HEADER_BYTES
    _LONG.pack_into(content, header + _OFFSET_AT, len(content))
    _LONG.pack_into(content, header + _SIZE_AT, len(longer))
    content += longer
