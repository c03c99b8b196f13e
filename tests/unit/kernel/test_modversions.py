# SPDX-License-Identifier: GPL-2.0-or-later
"""The checksums that a module needs are read in both formats."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from elf_maker import Made
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.modversions import read_versions

WANTED = {"kfree": 0xDEADBEEF, "klp_enable_patch": 1}


def read(**sections: bytes) -> dict[str, int]:
    made = Made()
    for name, content in sections.items():
        made.section(name, content)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "module.ko"
        path.write_bytes(made.data())
        return read_versions(ElfFile(path))


def basic(wanted: dict[str, int]) -> bytes:
    return b"".join(struct.pack("<Q56s", crc, name.encode()) for name, crc in wanted.items())


def extended(wanted: dict[str, int]) -> dict[str, bytes]:
    names = b"".join(name.encode() + b"\0" for name in wanted)
    return {"__version_ext_crcs": struct.pack(f"<{len(wanted)}I", *wanted.values()), "__version_ext_names": names}


def test_both_formats_say_the_same() -> None:
    assert read(__versions=basic(WANTED)) == read(**extended(WANTED)) == WANTED


def test_a_long_name_is_in_the_extended_format_only() -> None:
    long = {"a" * 200: 7}
    assert read(__versions=basic(WANTED), **extended(WANTED | long)) == WANTED | long


def test_a_module_without_checksums_has_none() -> None:
    assert read() == {}


@given(st.binary(max_size=200), st.binary(max_size=50), st.binary(max_size=50))
def test_any_content_is_read_without_a_fault(versions: bytes, checksums: bytes, names: bytes) -> None:
    found = read(__versions=versions, __version_ext_crcs=checksums, __version_ext_names=names)
    assert len(found) <= len(versions) // 64 + len(checksums) // 4
