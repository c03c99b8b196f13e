# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches in changed functions: tracepoints, debug messages and static keys that code tests by a patched jump.

Each entry of `__jump_table` (struct jump_entry of include/linux/jump_label.h) is one such jump.
create-diff-object leaves out the entries for a module's own tracepoints, because the kernel would read them before
livepatch can resolve the module's symbol: the jump is never patched, and the tracepoint is dead without a word. Debug
messages get descriptors of their own in the livepatch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from elivepatch.kernel.elf import TYPE_FUNC, ElfFile, Relocation
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped

_TABLE, _DESCRIPTORS = "__jump_table", "__dyndbg"
_ENTRY_BYTES, _CODE, _KEY = 16, 0, 8
_TRACEPOINT, _UNLIKELY = "__tracepoint_", ".cold"


class _Jump(NamedTuple):
    """One patched jump: its function or unlikely part, the place in it, the name and the section of the switch."""

    function: str
    offset: int
    key: str
    section: str

    @property
    def whole(self) -> str:
        """The function that the unlikely part is of."""
        return self.function.removesuffix(_UNLIKELY)


def switch_notes(patched: ElfFile, difference: ElfFile, *, functions: Collection[str], source: str) -> Iterator[Note]:
    """Yield notes about the switches of the changed or new `functions` that work in another way in the livepatch.

    `difference` is what create-diff-object made of `patched`. Raises BuildStopped with `jump-label` if a switch is
    missing in it that is neither a tracepoint nor a debug message.
    """
    jumps = [one for one in _jumps(patched, functions) if one.key]
    # The tool moves the reference to a switch of the kernel itself into a table of its own and keeps the entry.
    kept = {(one.function, one.offset) for one in _jumps(difference, functions)}
    silent: dict[str, dict[str, None]] = {}
    for one in jumps:
        if (one.function, one.offset) in kept:
            continue
        if not one.key.startswith(_TRACEPOINT):
            sentence = f"{one.whole} in {source} tests {one.key}, and the test is not in the livepatch."
            raise BuildStopped(problem("jump-label", sentence))
        silent.setdefault(one.key.removeprefix(_TRACEPOINT), {})[one.whole] = None
    for name, where in silent.items():
        message = f"The tracepoint {name} is dead in {_listed(where)} of {source}, as long as the livepatch is live"
        yield Note(code="tracepoint", message=f"{message}: a livepatch cannot use a module's own tracepoints.")
    if talking := dict.fromkeys(one.whole for one in jumps if one.section == _DESCRIPTORS):
        message = f"The debug messages in {_listed(talking)} of {source} are off until they are switched on again"
        yield Note(code="debug-messages", message=f"{message}: the livepatch has its own switches, under its own name.")


def _jumps(elf: ElfFile, functions: Collection[str]) -> Iterator[_Jump]:
    """Yield the patched jumps of functions and of their unlikely parts."""
    table = elf.by_name.get(_TABLE)
    if table is None:
        return
    places: dict[int, list[tuple[int, int, str]]] = {}
    for one in elf.symbols:
        # gcc puts the unlikely part of a function into a function of its own.
        if one.kind == TYPE_FUNC and one.defined and one.name.removesuffix(_UNLIKELY) in functions:
            places.setdefault(one.section, []).append((one.value, one.value + one.size, one.name))
    entries: dict[int, dict[int, Relocation]] = {}
    for field in elf.relocations(table):
        entries.setdefault(field.offset // _ENTRY_BYTES, {})[field.offset % _ENTRY_BYTES] = field
    for entry in entries.values():
        code, key = entry.get(_CODE), entry.get(_KEY)
        if code is None:
            continue
        at = elf.symbols[code.symbol].value + code.addend
        for start, end, name in places.get(elf.symbols[code.symbol].section, ()):
            if start <= at < end:
                yield _Jump(name, at - start, *_key(elf, key))


def _key(elf: ElfFile, entry: Relocation | None) -> tuple[str, str]:
    """Return the names of a switch and of its section, empty if the entry has none and if another object has it."""
    if entry is None:
        return "", ""
    symbol = elf.symbols[entry.symbol]
    section = elf.sections[symbol.section].name if symbol.defined else ""
    return symbol.name or section, section


def _listed(names: Collection[str]) -> str:
    several = sorted(names)
    return ", ".join(several[:4]) + (f" and {len(several) - 4} more" if len(several) > 4 else "")
