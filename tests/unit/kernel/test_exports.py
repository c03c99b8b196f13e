# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's export table, and the checksums that a module needs of it in both formats."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pytest
from elf_maker import Made
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.exports import Export, read_symvers, read_versions
from elivepatch.model.errors import EnvironmentFault

TABLE = """\
0xb43f9365\tktime_get\tvmlinux\tEXPORT_SYMBOL_GPL\t
0x00000000\tdma_buf_get\tdrivers/dma-buf/x\tEXPORT_SYMBOL_GPL\tDMA_BUF
0x12345678\told_format\tvmlinux\tEXPORT_SYMBOL
"""


def test_exports_have_checksum_owner_and_namespace(tmp_path: Path) -> None:
    (tmp_path / "Module.symvers").write_text(TABLE)
    exports = read_symvers(tmp_path / "Module.symvers")
    assert exports["ktime_get"] == Export(name="ktime_get", crc=0xB43F9365, owner="vmlinux", namespace="")
    assert exports["dma_buf_get"].namespace == "DMA_BUF"
    assert exports["old_format"].namespace == ""


@pytest.mark.parametrize(
    "content", [TABLE[:50], "0xnumber\ta\tvmlinux\tEXPORT_SYMBOL\t\n", "nonsense\n", "\n"],
    ids=["truncated", "no number", "no columns", "empty line"],
)  # fmt: skip
def test_a_damaged_table_is_reported_as_such(tmp_path: Path, content: str) -> None:
    (tmp_path / "Module.symvers").write_text(content)
    with pytest.raises(EnvironmentFault) as caught:
        read_symvers(tmp_path / "Module.symvers")
    assert caught.value.problem.code == "symvers"


def test_a_missing_table_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault):
        read_symvers(tmp_path / "Module.symvers")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_exports_or_a_fault(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "Module.symvers"
    path.write_bytes(data)
    try:
        read_symvers(path)
    except EnvironmentFault as fault:
        assert fault.problem.code == "symvers"  # noqa: PT017 - both ends are right


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
