# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that the kernel never unloads: those with a function for their start and none for their end.

delete_module(2) answers EBUSY, and /proc/modules calls them [permanent] (kernel/module/main.c, procfs.c). The kernel's
own references to them are counted as for any other module.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault

_MODULE = ".gnu.linkonce.this_module"
_END = "cleanup_module"
_RELA_BYTES, _INFO_AT = 24, 8
_NO_RELOCATION = struct.pack("<Q", 0)  # R_X86_64_NONE of no symbol


def stays_loaded(module: ElfFile) -> bool:
    """Return whether the kernel never unloads a module, because it names no function for its end."""
    return module.by_name.get(_MODULE) is not None and not list(_ends(module))


def make_stay(path: Path) -> None:
    """Take the function for its end out of the structure of the module at `path`, so that the kernel keeps the module.

    The function itself stays in the file. Raises EnvironmentFault if the file is no module.
    """
    module = ElfFile(path)
    if module.by_name.get(_MODULE) is None:
        raise EnvironmentFault(
            "elf-malformed",
            f"{path.name} is no kernel module.",
            advice="The linker made something else: keep the log and report a bug in elivepatch.",
        )
    places = list(_ends(module))
    with path.open("r+b") as file:
        for place in places:
            file.seek(place + _INFO_AT)
            file.write(_NO_RELOCATION)


def _ends(module: ElfFile) -> Iterator[int]:
    """Yield the places in the file of the relocations that name the function for the end."""
    for table in module.sections:
        if table.name == f".rela{_MODULE}":
            for number, entry in enumerate(module.entries(table)):
                if entry.kind and module.symbols[entry.symbol].name == _END:
                    yield table.offset + number * _RELA_BYTES
