# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of the compile units in an ELF file's debug information.

`readelf --debug-dump=info --dwarf-depth=1` prints them too, but decodes all abbreviations of a unit to find one: for
the 4,000 modules of a distribution's kernel that takes longer than everything else that a base needs. Format: DWARF
Debugging Information Format, versions 2 to 5, section 7.5 (units, abbreviations and forms).

The file is a stranger's. Every number in it is checked against the size of its section, each unit is read once, and
the limits below are far above what a kernel has. Sections that are compressed are not read (`has_compressed_sections`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from elivepatch.kernel.elf import ElfFile, Section
from elivepatch.model.errors import EnvironmentFault

_AT_NAME, _AT_STR_OFFSETS_BASE = 0x03, 0x72
_FORM_STRING, _FORM_INDIRECT = 0x08, 0x16
_NAME_BYTES = 1024
_UNITS = 1 << 17
_ABBREVIATIONS = 20_000_000  # that are looked at for all units of a file

# The section with the string that a form of a name refers to by its offset.
_STRINGS = {0x0E: ".debug_str", 0x1F: ".debug_line_str"}
# The size of the index by which a form refers to .debug_str_offsets; 0 is a number of variable length.
_INDICES = {0x1A: 0, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x1F02: 0}
# The sizes of forms in bytes. Those that depend on the unit, and blocks, are in `_behind`.
_FIXED = {0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8, 0x19: 0, 0x1C: 4, 0x1E: 16,
          0x20: 8, 0x21: 0, 0x24: 8, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3,
          0x2C: 4}  # fmt: skip
_NUMBERS = {0x0D, 0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23, 0x1F01, 0x1F02}
_OFFSETS = {0x0E, 0x17, 0x1D, 0x1F, 0x1F20, 0x1F21}
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4, 0x09: 0, 0x18: 0}  # the size of the length before them, as in _INDICES
_FORM_ADDRESS, _FORM_REFERENCE = 0x01, 0x10

# The bytes between the version and the first entry in a unit of version 5 that are not in all units, by its type:
# compile, type, partial, skeleton, split compile, split type. A type unit also has an offset at its end.
_EXTRA = {1: 0, 2: 8, 3: 0, 4: 8, 5: 8, 6: 8}
_WITH_OFFSET = {2, 6}

_NUMBER = rb"[\x80-\xff]{0,9}[\x00-\x7f]"  # LEB128
_NUMBER_AT = re.compile(_NUMBER, re.DOTALL)
# Attribute and form of a value; the form `implicit_const` has the value itself behind it.
_PAIR = rb"(?:%(n)s(?:\x21%(n)s|(?!\x21)%(n)s))" % {b"n": _NUMBER}
_PARTS = re.compile(rb"(%(n)s)(?:(\x21)%(n)s|(%(n)s))" % {b"n": _NUMBER}, re.DOTALL)
# One abbreviation: its code, which is not 0, its tag, whether there are children, and pairs up to two zeros.
_ABBREVIATION = re.compile(
    rb"(?!\x00)(%(n)s)%(n)s[\x00\x01]((?:(?!\x00\x00)%(p)s)*)\x00\x00" % {b"n": _NUMBER, b"p": _PAIR}, re.DOTALL
)


def unit_names(elf: ElfFile) -> Iterator[str]:
    """Yield the name of each unit that has one, as the compiler was given it.

    Raises EnvironmentFault with the code `elf-malformed` if the debug information is damaged.
    """
    for section in elf.sections:
        if section.name == ".debug_info":
            yield from _Names(elf, section).all()


def has_compressed_sections(elf: ElfFile) -> bool:
    """Return if sections of debug information are compressed: objcopy --decompress-debug-sections makes them plain."""
    return any(
        one.name.startswith(".zdebug_") or (one.compressed and one.name.startswith(".debug_")) for one in elf.sections
    )


@dataclass(frozen=True)
class _Unit:
    """Sizes in a unit: of the unit from `start` to `end`, of an offset, of an address."""

    version: int
    end: int
    offset_size: int
    address_size: int
    abbreviations: int
    entry: int


class _Names:
    """Reader of one .debug_info section."""

    def __init__(self, elf: ElfFile, section: Section) -> None:
        self._elf = elf
        self._section = section
        self._looked_at = 0

    def all(self) -> Iterator[str]:
        position = count = 0
        while position < self._section.size:
            count += 1
            if count > _UNITS:
                raise self._malformed(f"more than {_UNITS} units")
            length, offset_size = self._length(position)
            start = position + (12 if offset_size == 8 else 4)
            end = start + length
            if end > self._section.size:
                raise self._malformed("a unit that is longer than its section")
            if length:
                name = self._name(self._unit(start, end, offset_size))
                if name is not None:
                    yield name
            position = end

    def _length(self, position: int) -> tuple[int, int]:
        """Return the length of the unit at `position` and the size of its offsets."""
        length = self._number(position, 4)
        if length == 0xFFFFFFFF:
            return self._number(position + 4, 8), 8
        if length >= 0xFFFFFFF0:
            raise self._malformed("a unit of an unknown format")
        return length, 4

    def _unit(self, start: int, end: int, offset_size: int) -> _Unit:
        version, position, extra = self._number(start, 2), start + 2, 0
        if version == 5:
            kind, address_size = self._number(position, 1), self._number(position + 1, 1)
            if kind not in _EXTRA:
                raise self._malformed(f"a unit of the unknown type {kind}")
            extra = _EXTRA[kind] + offset_size * (kind in _WITH_OFFSET)
            abbreviations = self._offset(position + 2, offset_size)
            position += 2 + offset_size
        elif 2 <= version <= 4:
            abbreviations = self._offset(position, offset_size)
            address_size = self._number(position + offset_size, 1)
            position += offset_size + 1
        else:
            raise self._malformed(f"debug information of version {version}")
        return _Unit(version, end, offset_size, address_size, abbreviations, position + extra)

    def _name(self, unit: _Unit) -> str | None:
        """Return the name in the first entry of a unit, None if it has none."""
        code, position = self._variable(unit.entry)
        if code == 0:
            return None
        found: tuple[int, int] | None = None
        base: int | None = None
        for attribute, form in self._attributes(unit, code):
            while form == _FORM_INDIRECT:
                form, position = self._variable(position)
            if position > unit.end:
                raise self._malformed("an entry that is longer than its unit")
            if attribute == _AT_NAME:
                found = form, position
            elif attribute == _AT_STR_OFFSETS_BASE:
                base = self._offset(position, unit.offset_size)
            # Only names by index need what comes behind them.
            if found is not None and (found[0] not in _INDICES or base is not None):
                break
            position = self._behind(unit, form, position)
        return self._text(unit, *found, base) if found is not None else None

    def _text(self, unit: _Unit, form: int, position: int, base: int | None) -> str | None:
        if form == _FORM_STRING:
            return self._string(self._section, position)
        if form in _STRINGS:
            return self._string(self._named(_STRINGS[form]), self._offset(position, unit.offset_size))
        if form not in _INDICES:
            return None  # in a file of its own, which nobody has
        size = _INDICES[form]
        index = self._number(position, size) if size else self._variable(position)[0]
        offsets = self._named(".debug_str_offsets")
        # Without a base, the table begins behind its header.
        first = base if base is not None else 0 if unit.version < 5 else 2 * unit.offset_size
        reader = _Names(self._elf, offsets)
        return self._string(
            self._named(".debug_str"), reader._offset(first + index * unit.offset_size, unit.offset_size)
        )

    def _attributes(self, unit: _Unit, code: int) -> Iterator[tuple[int, int]]:
        """Yield attribute and form of each value of the entries with the abbreviation `code`."""
        section = self._named(".debug_abbrev")
        place, end = section.offset + unit.abbreviations, section.offset + section.size
        while found := _ABBREVIATION.match(self._elf.data, place, end):
            self._looked_at += 1
            if self._looked_at > _ABBREVIATIONS:
                break
            if _decoded(found[1]) == code:
                for attribute, constant, form in _PARTS.findall(found[2]):
                    yield _decoded(attribute), _decoded(form or constant)
                return
            place = found.end()
        raise self._malformed("a unit whose abbreviations are missing")

    def _behind(self, unit: _Unit, form: int, position: int) -> int:
        """Return the position behind a value of this form."""
        if form in _FIXED:
            return position + _FIXED[form]
        if form in _OFFSETS:
            return position + unit.offset_size
        if form in _NUMBERS:
            return self._variable(position)[1]
        if form in _BLOCKS:
            size = _BLOCKS[form]
            length, start = (self._number(position, size), position + size) if size else self._variable(position)
            return start + length
        if form == _FORM_STRING:
            return position + len(self._bytes_of_string(self._section, position)) + 1
        if form == _FORM_ADDRESS:
            return position + unit.address_size
        if form == _FORM_REFERENCE:
            return position + (unit.address_size if unit.version == 2 else unit.offset_size)
        raise self._malformed(f"a value of the unknown form {form:#x}")

    def _number(self, position: int, size: int) -> int:
        raw = self._elf.part(self._section, position, size)
        if len(raw) != size:
            raise self._malformed("an entry that is longer than its section")
        return int.from_bytes(raw, "little")

    def _variable(self, position: int) -> tuple[int, int]:
        """Return the number of variable length (LEB128) at `position`, and the position behind it."""
        found = _NUMBER_AT.match(self._elf.part(self._section, position, 10))
        if found is None:
            raise self._malformed("a number without an end")
        return _decoded(found[0]), position + found.end()

    def _offset(self, position: int, size: int) -> int:
        """Return the offset into another section at `position`, as the file's relocations make it."""
        stored = self._number(position, size)
        written = self._elf.relocated(self._section, position)
        return stored if written is None else written

    def _named(self, name: str) -> Section:
        section = self._elf.by_name.get(name)
        if section is None:
            raise self._malformed(f"debug information without {name}")
        return section

    def _string(self, section: Section, position: int) -> str:
        return self._bytes_of_string(section, position).decode(errors="replace")

    def _bytes_of_string(self, section: Section, position: int) -> bytes:
        text, end, _ = self._elf.part(section, position, _NAME_BYTES).partition(b"\0")
        if not end:
            raise self._malformed(f"a name without an end in {section.name}")
        return text

    def _malformed(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(
            "elf-malformed",
            f"{self._elf.path.name} has {what}.",
            advice="The file is damaged or another tool made it; make it again.",
        )


def _decoded(number: bytes) -> int:
    value = 0
    for byte in reversed(number):
        value = value << 7 | byte & 0x7F
    return value
