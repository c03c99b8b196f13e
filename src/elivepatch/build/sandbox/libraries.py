# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared libraries that a program of this machine loads, found without running anything.

They come from each file's own list (DT_NEEDED of the ELF specification).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault

PROGRAM_PLACES = (Path("/usr/sbin"), Path("/usr/bin"), Path("/sbin"), Path("/bin"))
LIBRARY_PLACES = (
    Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64"), Path("/usr/lib64"),
    Path("/usr/lib"),
)  # fmt: skip
LIBRARIES = "lib/x86_64-linux-gnu"
"""Directory of the libraries in what `loaded_by` returns."""

_NEEDED = 1
_ENTRY = struct.Struct("<QQ")


def needed(path: Path) -> tuple[tuple[str, ...], str]:
    """Return the names of the libraries that an ELF file lists, and the path of its loader, empty if it names none.

    Raises EnvironmentFault if the file is no ELF file of 64 bits.
    """
    elf = ElfFile(path)
    names = elf.named(".dynstr")
    found = []
    dynamic = elf.named(".dynamic")
    for tag, value in _ENTRY.iter_unpack(dynamic[: len(dynamic) // _ENTRY.size * _ENTRY.size]):
        if tag == _NEEDED and value < len(names):
            found.append(names[value : names.index(b"\0", value)].decode(errors="replace"))
    return tuple(found), elf.named(".interp").rstrip(b"\0").decode(errors="replace")


def loaded_by(path: Path) -> dict[str, Path] | None:
    """Return what a program or a plugin loads: the loader, and each library, by its place below another root.

    Returns None if this machine lacks one of them, or if `path` is no ELF file.
    """
    found: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        try:
            names, loader = needed(waiting.pop())
        except EnvironmentFault:
            return None
        if loader:
            found[loader.lstrip("/")] = Path(loader).resolve()
        for name in names:
            place = f"{LIBRARIES}/{name}"
            library = find_file(name, LIBRARY_PLACES)
            if library is None:
                return None
            if place not in found:
                found[place] = library
                waiting.append(library)
    return found


def find_file(name: str, places: Sequence[Path]) -> Path | None:
    """Return the file of a name in the first of the directories that has it, None if none has."""
    found = next((place / name for place in places if (place / name).is_file()), None)
    return found.resolve() if found is not None else None
