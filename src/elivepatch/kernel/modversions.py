# SPDX-License-Identifier: GPL-2.0-or-later
"""The checksums of the symbols that a module needs, as the kernel compares them with its own (CONFIG_MODVERSIONS).

The basic format is an array of struct modversion_info with names of at most 55 bytes; the extended one, from Linux 6.14
on, has the checksums and the names in two sections (kernel/module/version.c). A module may have both.
"""

from __future__ import annotations

import struct

from elivepatch.kernel.elf import ElfFile

_BASIC = struct.Struct("<Q56s")
_CHECKSUM = struct.Struct("<I")


def read_versions(module: ElfFile) -> dict[str, int]:
    """Return the checksum of each symbol that `module` needs; nothing where it has none."""
    raw = module.named("__versions")
    basic = {_text(name): crc for crc, name in _BASIC.iter_unpack(raw[: len(raw) - len(raw) % _BASIC.size])}
    checksums, names = module.named("__version_ext_crcs"), module.named("__version_ext_names").split(b"\0")
    whole = checksums[: len(checksums) - len(checksums) % _CHECKSUM.size]
    return basic | {_text(name): crc for (crc,), name in zip(_CHECKSUM.iter_unpack(whole), names, strict=False)}


def _text(name: bytes) -> str:
    return name.split(b"\0")[0].decode(errors="replace")
