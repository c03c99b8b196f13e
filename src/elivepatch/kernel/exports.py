# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of a kernel with their checksums, and the checksums that a module expects of them (CONFIG_MODVERSIONS).

The kernel's table is the text file Module.symvers (Documentation/kbuild/modules.rst). A module carries the checksums
in one or both of two formats (kernel/module/version.c): the basic one is an array of struct modversion_info with names
of at most 55 bytes; the extended one, from Linux 6.14 on, has checksums and names in two sections.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault

_BASIC = struct.Struct("<Q56s")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One exported symbol. `owner` is `vmlinux` or a module's path without `.ko`; `crc` is 0 without MODVERSIONS."""

    name: str
    crc: int
    owner: str
    namespace: str


def read_symvers(path: Path) -> Mapping[str, Export]:
    """Return the exports by name. Raises EnvironmentFault if the file is missing, truncated or garbled."""
    exports: dict[str, Export] = {}
    try:
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            crc, name, owner, _kind, *namespace = line.split("\t")
            exports[name] = Export(name=name, crc=int(crc, 16), owner=owner, namespace="".join(namespace))
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            "symvers",
            f"The kernel's export table cannot be read: {error}.",
            advice="The base is damaged: remove it and add it again.",
        ) from error
    return exports


def read_versions(module: ElfFile) -> dict[str, int]:
    """Return the checksum of each symbol that `module` needs; empty if the module carries no checksums."""
    raw = module.named("__versions")
    basic = {_text(name): crc for crc, name in _BASIC.iter_unpack(raw[: len(raw) - len(raw) % _BASIC.size])}
    checksums, names = module.named("__version_ext_crcs"), module.named("__version_ext_names").split(b"\0")
    whole = checksums[: len(checksums) - len(checksums) % _CHECKSUM.size]
    return basic | {_text(name): crc for (crc,), name in zip(_CHECKSUM.iter_unpack(whole), names, strict=False)}


def _text(name: bytes) -> str:
    return name.split(b"\0")[0].decode(errors="replace")
