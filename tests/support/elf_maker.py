# SPDX-License-Identifier: GPL-2.0-or-later
"""Small ELF files written byte by byte, so that tests of readers need no compiler and control every field."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TYPES = {"PROGBITS": 1, "SYMTAB": 2, "STRTAB": 3, "RELA": 4, "NOTE": 7, "NOBITS": 8, "SYMTAB_SHNDX": 18}
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
LOCAL, GLOBAL, WEAK = range(3)
NOTYPE, OBJECT, FUNC, SECTION, FILE = range(5)
ABSOLUTE = 0xFFF1
_LORESERVE = 0xFF00


@dataclass
class Made:
    """An ELF file in the making: sections by name, then symbols, then relocations, in the order they are added."""

    kind: int = 1  # ET_REL
    sections: list[tuple[str, str, int, int, bytes, int]] = field(default_factory=list)
    symbols: list[tuple[str, int, int, int, int, int]] = field(default_factory=list)
    relocations: dict[str, list[tuple[int, int, int, int]]] = field(default_factory=dict)

    def section(
        self,
        name: str,
        content: bytes = b"",
        *,
        kind: str = "PROGBITS",
        code: bool = False,
        address: int = 0,
        flags: int = 0x2,
    ) -> Made:
        """Add a section; one without `flags` is not loaded."""
        self.sections.append((name, kind, 0x6 if code else flags, address, content, len(content)))
        return self

    def symbol(
        self,
        name: str,
        section: str | int = 0,
        *,
        value: int = 0,
        size: int = 0,
        kind: int = FUNC,
        bind: int = LOCAL,
    ) -> int:
        """Add a symbol and return its number."""
        index = section if isinstance(section, int) else self.number(section)
        self.symbols.append((name, value, size, kind, bind, index))
        return len(self.symbols)

    def file(self, name: str) -> int:
        """Add the symbol that stands before those of one source file."""
        return self.symbol(name, ABSOLUTE, kind=FILE)

    def relocation(self, section: str, offset: int, symbol: int, *, kind: int = 2, addend: int = 0) -> Made:
        """Add a relocation that applies to `section`."""
        self.relocations.setdefault(section, []).append((offset, kind, symbol, addend))
        return self

    def number(self, section: str) -> int:
        """Return the index of a section."""
        return [name for name, *_ in self.sections].index(section) + 1

    def data(self) -> bytes:
        """Return the bytes of the file."""
        names, strings = bytearray(b"\0"), bytearray(b"\0")
        table = bytearray(24)
        for name, value, size, kind, bind, index in self.symbols:
            table += struct.pack("<IBBHQQ", len(strings) if name else 0, bind << 4 | kind, 0, index, value, size)
            strings += name.encode() + b"\0" if name else b""
        symtab = len(self.sections) + len(self.relocations) + 1
        parts: list[tuple[str, int, int, int, bytes, int, int, int]] = [
            (name, _TYPES[kind], flags, address, content, 0, 0, length)
            for name, kind, flags, address, content, length in self.sections
        ]
        for target, entries in self.relocations.items():
            raw = b"".join(struct.pack("<QQq", offset, sym << 32 | kind, add) for offset, kind, sym, add in entries)
            parts.append((f".rela{target}", 4, 0, 0, raw, symtab, self.number(target), len(raw)))
        parts.append((".symtab", 2, 0, 0, bytes(table), symtab + 1, 0, len(table)))
        parts.append((".strtab", 3, 0, 0, bytes(strings), 0, 0, len(strings)))
        for name in [*(name for name, *_ in parts), ".shstrtab"]:
            names += name.encode() + b"\0"
        parts.append((".shstrtab", 3, 0, 0, bytes(names), 0, 0, len(names)))
        return self._assemble(parts, bytes(names))

    def _assemble(self, parts: Sequence[tuple[str, int, int, int, bytes, int, int, int]], names: bytes) -> bytes:
        body = bytearray()
        count = len(parts) + 1
        many = count >= _LORESERVE
        # Numbers that do not fit into the file's header are in the first section's.
        headers = bytearray(_SECTION.pack(*([0] * 5), *((count, count - 1) if many else (0, 0)), *([0] * 3)))
        for name, kind, flags, address, content, link, info, length in parts:
            offset = _HEADER.size + len(body)
            at = names.find(b"\0" + name.encode() + b"\0") + 1
            entry = {2: 24, 4: 24}.get(kind, 0)
            headers += _SECTION.pack(at, kind, flags, address, offset, length, link, info, 1, entry)
            if kind != _TYPES["NOBITS"]:
                body += content
        start = _HEADER.size + len(body)
        magic = b"\x7fELF\x02\x01\x01" + bytes(9)
        told = (0, 0xFFFF) if many else (count, count - 1)
        header = _HEADER.pack(magic, self.kind, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, *told)
        return header + bytes(body) + bytes(headers)

    def write(self, path: Path) -> Path:
        """Write the file and return its path."""
        path.write_bytes(self.data())
        return path
