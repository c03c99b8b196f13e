# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of this machine in the guest: each with the shared libraries that it needs, found without running anything.

The libraries are put where the loader looks first. Equal files give equal bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from elivepatch.build.sandbox.libraries import LIBRARY_PLACES, PROGRAM_PLACES, find_file, loaded_by
from elivepatch.trial import cpio

_PLACE = "trial/tools"
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
        program = find_file(name, PROGRAM_PLACES)
        if program is None or not _add(program, files):
            lacking.add(name)
            continue
        files[f"{_PLACE}/{name}"] = program
        for plugin in _plugins(name):
            if _add(plugin, files):
                files[f"{_PLACE}/{_PLUGINS[name][0]}/{plugin.name}"] = plugin
    return files, frozenset(lacking)


def _add(path: Path, files: dict[str, Path]) -> bool:
    """Add what `path` needs to `files`; return False, with nothing added, if a library is missing."""
    loaded = loaded_by(path)
    files.update(loaded or {})
    return loaded is not None


def _plugins(name: str) -> Iterator[Path]:
    if name in _PLUGINS:
        directory, patterns = _PLUGINS[name]
        for place in LIBRARY_PLACES[:2]:
            found = sorted(path for pattern in patterns for path in (place / directory).glob(pattern))
            if found:
                yield from found
                return
