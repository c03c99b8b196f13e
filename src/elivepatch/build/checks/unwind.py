# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables about code that the kernel needs: how to unwind each function, its returns, and the places to rewrite in it.

The kernel cannot see that a table is incomplete. Without unwind entries (ORC), a stack with the function on
it is not reliable: transitions take longer or never end, and traces of a crash are wrong. A return that is not listed
is not rewritten at boot for this processor's mitigation (arch/x86/kernel/alternative.c, apply_returns). Older kernels,
such as 5.10 and 5.15, run objtool outside of the saved compile command, and what that command alone made has neither.

The linker joins the tables of all changed objects. Without the entries of a function, its alternatives stay those of
the oldest processors, its faults end the kernel, and its static branches stay as they were compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from elivepatch.kernel.elf import TYPE_FUNC, ElfFile, Symbol
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped

_PLACES, _SITES = ".orc_unwind_ip", ".return_sites"
# The tables of a module that the kernel processes (arch/x86/kernel/module.c, kernel/module, kernel/jump_label.c).
_TABLES = (".altinstructions", ".parainstructions", ".smp_locks", ".retpoline_sites", ".return_sites", ".call_sites",
           "__ex_table", "__bug_table", "__jump_table", ".static_call_sites", _PLACES)  # fmt: skip
_THUNK = "__x86_return_thunk"
_JUMP_BYTES = 1  # the opcode in front of the place that a relocation fills


def check_unwind(module: ElfFile, kernel: ElfFile) -> None:
    """Raise BuildStopped with `module-check` if a function of a module has no unwind entry, or a return is not listed.

    Returns must be listed if those of `kernel`, the vmlinux, are.
    """
    starts: dict[int, int] = {}
    for number, offset in _targets(module, _PLACES):
        starts[number] = min(offset, starts.get(number, offset))
    for function in _functions(module):
        # objtool leaves out an entry that says the same as the one before, in the same section.
        if starts.get(function.section, function.value + 1) > function.value:
            raise _wrong(f"The new {function.name} has no unwind entries")
    if _SITES in kernel.by_name:
        listed = set(_targets(module, _SITES))
        for section in module.sections:
            if section.executable:
                for entry in module.relocations(section):
                    place = (section.number, entry.offset - _JUMP_BYTES)
                    if module.symbols[entry.symbol].name == _THUNK and place not in listed:
                        raise _wrong(f"A return in {section.name} is not in the list of returns")


def check_tables(module: ElfFile, objects: Iterable[ElfFile]) -> None:
    """Raise BuildStopped with `module-check` if a table of a module is shorter than those of its objects together."""
    wanted = dict.fromkeys(_TABLES, 0)
    for one in objects:
        for name in _TABLES:
            wanted[name] += _size(one, name)
    for name, size in wanted.items():
        if _size(module, name) < size:
            raise _wrong(f"The module lacks entries of {name} that its objects have")


def _size(file: ElfFile, name: str) -> int:
    return sum(section.size for section in file.sections if section.name == name)


def _functions(module: ElfFile) -> Iterator[Symbol]:
    for symbol in module.symbols:
        if symbol.kind != TYPE_FUNC or not symbol.defined or not symbol.size or symbol.name.startswith("__pfx_"):
            continue
        if module.sections[symbol.section].executable:
            yield symbol


def _targets(module: ElfFile, name: str) -> Iterator[tuple[int, int]]:
    """Yield the section and the offset in it to which each entry of a table leads."""
    table = module.by_name.get(name)
    for entry in module.relocations(table) if table is not None else ():
        symbol = module.symbols[entry.symbol]
        yield symbol.section, symbol.value + entry.addend


def _wrong(what: str) -> BuildStopped:
    return BuildStopped(problem("module-check", f"{what}."))
