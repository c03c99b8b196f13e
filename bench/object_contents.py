# SPDX-License-Identifier: GPL-2.0-or-later
"""Contents of kernel objects, compared without the product's own readers and comparison.

The mutation test asks what became of a change; it may not ask the code that it tests. So the ELF file is read here
again, and two pieces of code or data are the same if their bytes are, apart from references, and if each reference
leads to the same: a named function or variable, or text, constants and tables with the same content. Formats: System V
ABI, "Object Files"; x86-64 psABI for relocations; Documentation/livepatch/module-elf-format.rst for livepatches.
"""

from __future__ import annotations

import bisect
import re
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from elivepatch.process import run

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_WRITE, _ALLOC, _CODE, _MERGE, _STRINGS = 0x1, 0x2, 0x4, 0x10, 0x20
_RELA_KIND, _SYMTAB, _NO_BYTES, _EXTENDED = 4, 2, 8, 18
_OBJECT, _FUNCTION, _NAMED_SECTION = 1, 2, 3
_UNDEFINED, _RESERVED, _ELSEWHERE = 0, 0xFF00, 0xFFFF
_PC32, _PLT32 = 2, 4
_WIDTHS = {1: 8, 24: 8, _PC32: 4, _PLT32: 4, 10: 4, 11: 4}
_KLP_SYMBOL = re.compile(r"\.klp\.sym\.(\w+)\.(.+),(\d+)$")
_NUMBER = re.compile(r"(?<=^__UNIQUE_ID_)(.*?)\d+(?:\.\d+)?$|\.\d+$")
# Statics that macros and the compiler make. No other code names them, so that a livepatch may have its own.
_MADE = re.compile(
    r"(?:CSWTCH|__func__|__FUNCTION__|__PRETTY_FUNCTION__|_rs|__key|__already_done|__warned|___done|___once_key|_entry|"
    r"_entry_ptr|descriptor|__print_once|__flags|lkey|\.LC)\.?\d*$|__UNIQUE_ID_ddebug\d+(?:\.\d+)?$|\.L"
)
_TABLES = re.compile(
    r"\.(?:alt|para|smp_locks|return_sites|retpoline_sites|call_sites|ibt_endbr|cfi_sites|orc_|static_call_sites|"
    r"discard|fixup|initcall|altinstr)|__(?:mcount_loc|patchable_function_entries|jump_table|ex_table|bug_table)"
)
_NOTES = re.compile(r"\.(?:comment|note|debug|BTF|llvm|export_symbol|gnu|klp|kpatch)|__versions$")
ENTRY_SIZES = {"__bug_table": "BUG_STRUCT_SIZE", "__ex_table": "EX_STRUCT_SIZE"}
"""Tables with an entry for an instruction, which are part of its function, and the names of their entries' sizes."""


class Section(NamedTuple):
    """One section and its bytes; `size` counts also if the file has no bytes of it."""

    number: int
    name: str
    kind: int
    flags: int
    size: int
    link: int
    info: int
    entry: int
    data: bytes

    @property
    def used(self) -> bool:
        """True if the section is in memory at run time, and not only notes about it."""
        return bool(self.flags & _ALLOC) and not _NOTES.match(self.name)

    @property
    def executable(self) -> bool:
        return bool(self.flags & _CODE)

    @property
    def writable(self) -> bool:
        return bool(self.flags & _WRITE)

    @property
    def shared(self) -> bool:
        """True if the linker merges equal pieces of it: text and constants."""
        return bool(self.flags & (_MERGE | _STRINGS))

    @property
    def of_table(self) -> bool:
        """True if its entries follow from code, such as the list of places that ftrace may patch."""
        return bool(_TABLES.match(self.name))

    @property
    def only_once(self) -> bool:
        """True if the kernel uses it at start-up or at the end only."""
        return bool(re.match(r"\.(?:init|exit|meminit)\.|\.ref\.", self.name))


class Symbol(NamedTuple):
    """One symbol; `section` is None if another file defines it."""

    name: str
    value: int
    size: int
    kind: int
    local: bool
    section: int | None


class Reference(NamedTuple):
    """A relocation: at `offset` of its section, of the kind `kind`, to `addend` behind a symbol."""

    offset: int
    kind: int
    symbol: int
    addend: int


class Target(NamedTuple):
    """The meaning of a reference: `content` is that of shared text, else `symbol` or a whole section, and an offset."""

    content: bytes | None = None
    symbol: Symbol | None = None
    section: int | None = None
    offset: int = 0


@dataclass(frozen=True)
class Contents:
    """The sections, symbols and references of one object or module."""

    path: Path

    @cached_property
    def sections(self) -> list[Section]:
        data = self.path.read_bytes()
        start, count, names_at = struct.unpack_from("<40xQ12xHH", data)
        heads = [_SECTION.unpack_from(data, start + 64 * number) for number in range(count or 1)]
        if not count or names_at == _ELSEWHERE:
            heads = [_SECTION.unpack_from(data, start + 64 * number) for number in range(count or heads[0][5])]
            names_at = heads[0][6] if names_at == _ELSEWHERE else names_at
        names = data[heads[names_at][4] : heads[names_at][4] + heads[names_at][5]]
        return [
            Section(
                number, _text(names, name), kind, flags, size, link, info, entry,
                b"" if kind == _NO_BYTES else data[offset : offset + size],
            )
            for number, (name, kind, flags, _, offset, size, link, info, _, entry) in enumerate(heads)
        ]  # fmt: skip

    @cached_property
    def symbols(self) -> list[Symbol]:
        table = next(one for one in self.sections if one.kind == _SYMTAB)
        names = self.sections[table.link].data
        extended = next((one.data for one in self.sections if one.kind == _EXTENDED), b"")
        found = []
        for number, (name, info, _, section, value, size) in enumerate(_SYMBOL.iter_unpack(table.data)):
            at: int | None = section
            if section == _ELSEWHERE:
                at = int(struct.unpack_from("<I", extended, 4 * number)[0])
            elif section == _UNDEFINED or section >= _RESERVED:
                at = None
            found.append(Symbol(_text(names, name), value, size, info & 0xF, info >> 4 == 0, at))
        return found

    @cached_property
    def references(self) -> dict[int, list[Reference]]:
        """The references of each section by its number, in the order of their places."""
        found: dict[int, list[Reference]] = {}
        for table in self.sections:
            if table.kind == _RELA_KIND and self.sections[table.info].flags & _ALLOC:
                for offset, info, addend in _RELA.iter_unpack(table.data):
                    found.setdefault(table.info, []).append(Reference(offset, info & 0xFFFFFFFF, info >> 32, addend))
        for references in found.values():
            references.sort()
        return found

    @cached_property
    def functions(self) -> dict[str, Symbol]:
        return {one.name: one for one in self.symbols if one.kind == _FUNCTION and one.section is not None}

    @cached_property
    def variables(self) -> dict[str, Symbol]:
        return {one.name: one for one in self.symbols if one.kind == _OBJECT and one.section is not None}

    @cached_property
    def _symbols_in(self) -> dict[int, list[Symbol]]:
        found: dict[int, list[Symbol]] = {}
        for one in self.symbols:
            if one.section is not None and one.kind in {_OBJECT, _FUNCTION}:
                found.setdefault(one.section, []).append(one)
        for symbols in found.values():
            symbols.sort(key=lambda one: (one.value, not one.size))
        return found

    def at(self, section: int, place: int) -> Symbol | None:
        """Return the named code or data at a place of a section; of several, the last that begins before it."""
        found = [one for one in self._symbols_in.get(section, ()) if one.value <= max(place, 0)]
        return found[-1] if found else None

    def target(self, section: Section, reference: Reference) -> Target:
        """Return the meaning of a reference of a section."""
        symbol = self.symbols[reference.symbol]
        offset = reference.addend
        if section.executable and reference.kind in {_PC32, _PLT32}:
            offset += self._end_of_instruction(section, reference.offset) - reference.offset
        if symbol.section is None:
            return Target(symbol=symbol, offset=offset)
        aimed, place = self.sections[symbol.section], symbol.value + offset
        if aimed.shared and not (symbol.kind == _OBJECT and symbol.size):
            end = aimed.data.find(b"\0", max(place, 0)) if aimed.flags & _STRINGS else place + aimed.entry
            return Target(content=aimed.data[max(place, 0) : end])
        if symbol.kind in {_OBJECT, _FUNCTION}:
            return Target(symbol=symbol, offset=offset)
        if named := self.at(symbol.section, place):
            return Target(symbol=named, offset=place - named.value)
        return Target(section=symbol.section, offset=place)

    def _end_of_instruction(self, section: Section, place: int) -> int:
        """Return the end of the instruction at a place: from there the processor counts.

        A constant may follow the reference in the instruction, so that its end is not always four bytes behind.
        """
        starts = self._instructions.get((section.name, section.size), [])
        after = bisect.bisect_right(starts, place)
        return starts[after] if after < len(starts) else min(place + 4, section.size)

    @cached_property
    def _instructions(self) -> dict[tuple[str, int], list[int]]:
        """Places of the instructions of each section of code, by the section's name and size, as objdump finds them."""
        sizes: dict[str, list[int]] = {}
        for one in self.sections:
            if one.executable and one.size:
                sizes.setdefault(one.name, []).append(one.size)
        found: dict[tuple[str, int], list[int]] = {}
        places: list[int] = []
        for line in run(["objdump", "-d", "--no-show-raw-insn", self.path]).check("Disassembling").text.split("\n"):
            if line.startswith("Disassembly of section "):
                name = line.removeprefix("Disassembly of section ").removesuffix(":")
                places = found[name, sizes[name].pop(0) if sizes.get(name) else 0] = []
            elif line.startswith(" ") and (place := line.partition(":")[0].strip()):
                places.append(int(place, 16))
        return found

    def range_of(self, symbol: Symbol) -> tuple[Section, int, int]:
        """Return the section of a symbol, its first place in it and the one behind it."""
        if symbol.section is None:
            raise ValueError(symbol.name)
        section = self.sections[symbol.section]
        return section, symbol.value, symbol.value + symbol.size if symbol.size else section.size

    def users(self, function: str) -> set[str]:
        """Return the functions, and the sections of data, that refer to a function; itself is left out."""
        found = set()
        for number, references in self.references.items():
            section = self.sections[number]
            if not section.used or section.of_table or section.name in ENTRY_SIZES:
                continue
            for one in references:
                symbol = self.target(section, one).symbol
                if symbol is not None and symbol.name == function:
                    user = self.at(number, one.offset) if section.executable else None
                    found.add(section.name if user is None else user.name)
        return found - {function}

    def entries(self, sizes: dict[str, int]) -> dict[str, list[tuple[Section, int, int]]]:
        """Return the places of the entries in tables of instructions, by the function that each is about."""
        found: dict[str, list[tuple[Section, int, int]]] = {}
        for section in self.sections:
            size = sizes.get(ENTRY_SIZES.get(section.name, ""), 0)
            if size:
                for one in self.references.get(section.number, ()):
                    target = self.target(section, one)
                    if one.offset % size == 0 and target.symbol is not None:
                        place = (section, one.offset, one.offset + size)
                        found.setdefault(target.symbol.name, []).append(place)
        return found

    @cached_property
    def replacing(self) -> frozenset[str]:
        """The functions of a livepatch that replace others, from kpatch's own table of them."""
        names = set()
        for section in self.sections:
            if section.name == ".kpatch.funcs":
                for one in self.references.get(section.number, ()):
                    target = self.target(section, one)
                    if target.symbol is not None and target.symbol.kind == _FUNCTION:
                        names.add(target.symbol.name)
        return frozenset(names)


def _text(names: bytes, start: int) -> str:
    return names[start : names.index(b"\0", start)].decode(errors="replace")


def plain_name(name: str) -> str:
    """Return a name without the number that the compiler or a macro appends, and without a livepatch's marks."""
    if found := _KLP_SYMBOL.match(name):
        name = found[2]
    return _NUMBER.sub(lambda one: one[1] or "", name)


def is_made(name: str) -> bool:
    """Return if the compiler or a macro made the static of this name."""
    return bool(_MADE.match(name))


@dataclass
class Comparison:
    """Comparison of the contents of two files: an original with a patched object, or that with a livepatch.

    With `kernel`, the original object, `second` is a livepatch: its references to the running kernel count as the
    original's content. Each of `different` is a reason why something is not the same.
    """

    first: Contents
    second: Contents
    kernel: Contents | None = None
    seen: dict[tuple[object, ...], bool] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)

    def same(self, one: tuple[Section, int, int], other: tuple[Section, int, int], what: str) -> bool:
        """Return if two pieces of code or data are the same."""
        key = (one[0].number, *one[1:], other[0].number, *other[1:])
        if key not in self.seen:
            self.seen[key] = True  # a cycle of references is the same if all of it is
            reason = self._difference(one, other)
            if reason:
                self.different.append(f"{what}: {reason}")
            self.seen[key] = not reason
        return self.seen[key]

    def _difference(self, one: tuple[Section, int, int], other: tuple[Section, int, int]) -> str:
        if one[2] - one[1] != other[2] - other[1]:
            return f"{one[2] - one[1]} bytes became {other[2] - other[1]}"
        references = [
            [each for each in file.references.get(section.number, ()) if start <= each.offset < end]
            for file, (section, start, end) in ((self.first, one), (self.second, other))
        ]
        pieces = []
        for (section, start, end), its in zip((one, other), references, strict=True):
            piece = bytearray(section.data[start:end].ljust(end - start, b"\0"))  # a section without bytes holds zeros
            for each in its:
                at, width = each.offset - start, _WIDTHS.get(each.kind, 4)
                piece[at : at + width] = bytes(len(piece[at : at + width]))
            pieces.append(bytes(piece))
        if pieces[0] != pieces[1]:
            at = next(at for at, pair in enumerate(zip(*pieces, strict=False)) if pair[0] != pair[1])
            return f"other bytes at {at:#x}"
        if [each.offset - one[1] for each in references[0]] != [each.offset - other[1] for each in references[1]]:
            return "references at other places"
        for mine, its in zip(*references, strict=True):
            first, second = self.first.target(one[0], mine), self.second.target(other[0], its)
            if not self._same_target(first, second):
                return f"at {mine.offset - one[1]:#x} {_shown(first)} became {_shown(second)}"
        return ""

    def _same_target(self, first: Target, second: Target) -> bool:
        if first.content is not None or second.content is not None:
            return first.content == second.content
        if first.offset != second.offset:
            return False
        if first.symbol is None or second.symbol is None:
            if first.section is None or second.section is None:
                return False
            one, other = self.first.sections[first.section], self.second.sections[second.section]
            return self.same((one, 0, one.size), (other, 0, other.size), one.name)
        return self._same_symbol(first.symbol, second.symbol)

    def _same_symbol(self, one: Symbol, other: Symbol) -> bool:
        made = is_made(one.name)
        if (plain_name if made or self.kernel else str)(one.name) != (plain_name if made or self.kernel else str)(
            _KLP_SYMBOL.sub(r"\2", other.name)
        ):
            return False
        if one.section is None or (other.section is None and self.kernel is None):
            return other.section is None or self.kernel is not None
        if other.section is None:
            return self._as_in_kernel(one, _KLP_SYMBOL.sub(r"\2", other.name))
        if self.kernel is None and (one.kind == _FUNCTION or not self._by_content(one)):
            return True
        return self.same(self.first.range_of(one), self.second.range_of(other), one.name)

    def _by_content(self, symbol: Symbol) -> bool:
        """Return if a reference means the content of a variable, not the variable itself."""
        section = self.first.sections[symbol.section or 0]
        return is_made(symbol.name) or (symbol.local and not section.writable)

    def _as_in_kernel(self, one: Symbol, name: str) -> bool:
        """Return if the running kernel's variable `name` has the content that the patched object's has."""
        if one.kind == _FUNCTION or not self._by_content(one) or self.kernel is None:
            return True
        its = self.kernel.variables.get(name)
        if its is None:
            return False
        return Comparison(self.kernel, self.first).same(self.kernel.range_of(its), self.first.range_of(one), name)


def _shown(target: Target) -> str:
    if target.content is not None:
        return repr(target.content[:60])
    name = target.symbol.name if target.symbol is not None else f"section {target.section}"
    return f"{name}+{target.offset:#x}"
