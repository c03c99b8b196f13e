# SPDX-License-Identifier: GPL-2.0-or-later
"""Reader of objdump's listing of x86-64 code (`objdump -dlw --no-show-raw-insn`, AT&T syntax)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_SECTION = re.compile(r"Disassembly of section (.+):")
_LINE = re.compile(r"/?(?:src/)?(?:\./)?(\S+\.[chS]):(\d+)(?: \(discriminator \d+\))?$")
_CODE = re.compile(r"\s*([0-9a-f]+):\t(.*)")
_MEMORY = re.compile(
    r"(?:%(?P<segment>[a-z]s):)?(?P<offset>-?0x[0-9a-f]+)?"
    r"(?:\((?:%(?P<base>\w+))?(?:,%(?P<index>\w+)(?:,[1248])?)?\))?"
)
_PREFIXES = frozenset(("lock", "bnd", "notrack", "data16", "cs", "ds", "es", "ss", "rex.W", "repz", "repnz", "rep"))
_TARGET = re.compile(r"([0-9a-f]+)(?: <.*>)?")


def _registers() -> Iterator[tuple[str, str]]:
    for letter in "abcd":
        yield from ((name, f"r{letter}x") for name in (f"{letter}l", f"{letter}h", f"{letter}x", f"e{letter}x"))
    for short in ("si", "di", "bp", "sp"):
        yield from ((name, f"r{short}") for name in (f"{short}l", short, f"e{short}"))
    for number in range(8, 16):
        yield from ((f"r{number}{size}", f"r{number}") for size in ("b", "w", "d"))


_WHOLE = dict(_registers())


class Memory(NamedTuple):
    """A memory operand; `scaled` is its index. Names are empty for registers that it lacks.

    `rip` is left out: a relocation says what it leads to.
    """

    segment: str
    offset: int
    base: str
    scaled: str


class Instruction(NamedTuple):
    """An instruction: its section, its extent there, its name without prefixes, its operands as objdump writes them.

    `line` is the last place in a C file (not a header) that objdump named before it.
    """

    section: str
    address: int
    end: int
    name: str
    operands: tuple[str, ...]
    line: str

    @property
    def target(self) -> int | None:
        """The address in its own section that a direct jump or call leads to, if no relocation says otherwise."""
        found = _TARGET.fullmatch(self.operands[0]) if len(self.operands) == 1 else None
        return int(found[1], 16) if found else None


def whole_register(name: str) -> str:
    """Return the 64-bit register of which `name` is a part."""
    return _WHOLE.get(name, name)


def memory_of(operand: str) -> Memory | None:
    """Return a memory operand, None for a register or an immediate value."""
    text = operand.removeprefix("*")
    if text.startswith("$") or (text.startswith("%") and ":" not in text):
        return None
    found = _MEMORY.fullmatch(text)
    if found is None:
        return None
    base = whole_register(found["base"] or "")
    return Memory(
        segment=found["segment"] or "",
        offset=int(found["offset"] or "0", 16),
        base="" if base == "rip" else base,
        scaled=whole_register(found["index"] or ""),
    )


def read_listing(listing: str) -> Iterator[Instruction]:
    """Yield the instructions of a listing in its order."""
    section, line = "", ""
    pending: tuple[int, str, str] | None = None
    for text in listing.splitlines():
        if found := _CODE.match(text):
            address = int(found[1], 16)
            if pending is not None:
                yield _instruction(section, pending, address)
            pending = address, found[2], line
        elif found := _SECTION.match(text):
            if pending is not None:
                yield _instruction(section, pending, pending[0] + 16)
            section, line, pending = found[1], "", None
        elif (found := _LINE.match(text)) and found[1].endswith(".c"):
            line = f"{found[1]}:{found[2]}"
    if pending is not None:
        yield _instruction(section, pending, pending[0] + 16)


def _instruction(section: str, pending: tuple[int, str, str], end: int) -> Instruction:
    address, text, line = pending
    words = text.split("#")[0].split("\t")[0].split(None, 1)
    while len(words) > 1 and words[0] in _PREFIXES:
        words = words[1].split(None, 1)
    operands = tuple(_operands(words[1])) if len(words) > 1 else ()
    return Instruction(section, address, end, words[0].split(",")[0] if words else "", operands, line)


def _operands(text: str) -> Iterator[str]:
    depth, start = 0, 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield text[start:at].strip()
            start = at + 1
    yield text[start:].strip()
