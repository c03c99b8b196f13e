# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables that objtool makes for the kernel: how to unwind each function, and where each one returns.

The kernel needs both, and cannot see that one is incomplete. Without unwind entries (ORC), a stack with the function on
it is not reliable: transitions take longer or never end, and traces of a crash are wrong. A return that is not listed
is not rewritten at boot for this processor's mitigation (arch/x86/kernel/alternative.c, apply_returns). Older kernels,
such as 5.10 and 5.15, run objtool outside of the saved compile command, and what that command alone made has neither.
"""

from __future__ import annotations

from collections.abc import Iterator

from elivepatch.kernel.elf import TYPE_FUNC, ElfFile, Symbol
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped

_PLACES, _SITES = ".orc_unwind_ip", ".return_sites"
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
