# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of this machine in the guest: each with the shared libraries that it needs, found without running anything.

The libraries come from each file's own list (DT_NEEDED of the ELF specification) and are put where the loader looks
first. Equal files give equal bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault
from elivepatch.trial import cpio

_PROGRAM_PLACES = (Path("/usr/sbin"), Path("/usr/bin"), Path("/sbin"), Path("/bin"))
_LIBRARY_PLACES = (
    Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64"), Path("/usr/lib64"),
    Path("/usr/lib"),
)  # fmt: skip
_PLACE = "trial/tools"
_NEEDED = 1
_ENTRY = struct.Struct("<QQ")
_PLUGINS = {"iptables-legacy": ("xtables", ("libxt_*.so", "libipt_*.so", "libip6t_*.so"))}
"""Directories that a program loads plugins from, below a library directory."""


def missing(names: Collection[str]) -> frozenset[str]:
    """Return the names of the tools that this machine lacks, or of which it lacks a library."""
    return _files(names)[1]


def pack(names: Collection[str]) -> list[cpio.CpioEntry]:
    """Return the tools with these names that this machine has, with their libraries and plugins."""
    files, _lacking = _files(names)
    directories = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    entries = [cpio.directory(name) for name in directories]
    return entries + [cpio.file(name, path.read_bytes(), executable=True) for name, path in sorted(files.items())]


def _files(names: Collection[str]) -> tuple[dict[str, Path], frozenset[str]]:
    """Return the files of the tools by their places in the guest, and the names of the tools that are missing."""
    files: dict[str, Path] = {}
    lacking = set()
    for name in sorted(names):
        program = _find(name, _PROGRAM_PLACES)
        if program is None or not _add(program, files):
            lacking.add(name)
            continue
        files[f"{_PLACE}/{name}"] = program
        for plugin in _plugins(name):
            if _add(plugin, files):
                files[f"{_PLACE}/{_PLUGINS[name][0]}/{plugin.name}"] = plugin
    return files, frozenset(lacking)


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


def _add(path: Path, files: dict[str, Path]) -> bool:
    """Add what `path` needs to `files`; return False, with nothing added, if a library is missing."""
    added: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        try:
            names, loader = needed(waiting.pop())
        except EnvironmentFault:
            return False
        if loader:
            added[loader.lstrip("/")] = Path(loader).resolve()
        for name in names:
            place = f"lib/x86_64-linux-gnu/{name}"
            library = _find(name, _LIBRARY_PLACES)
            if library is None:
                return False
            if place not in added and place not in files:
                added[place] = library
                waiting.append(library)
    files.update(added)
    return True


def _plugins(name: str) -> Iterator[Path]:
    if name in _PLUGINS:
        directory, patterns = _PLUGINS[name]
        for place in _LIBRARY_PLACES[:2]:
            found = sorted(path for pattern in patterns for path in (place / directory).glob(pattern))
            if found:
                yield from found
                return


def _find(name: str, places: Sequence[Path]) -> Path | None:
    found = next((place / name for place in places if (place / name).is_file()), None)
    return found.resolve() if found is not None else None
