# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's export table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.symvers import Export, read_symvers
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
def test_a_damaged_table_is_told_as_such(tmp_path: Path, content: str) -> None:
    (tmp_path / "Module.symvers").write_text(content)
    with pytest.raises(EnvironmentFault) as caught:
        read_symvers(tmp_path / "Module.symvers")
    assert caught.value.problem.code == "symvers"


def test_a_missing_table_is_told_as_such(tmp_path: Path) -> None:
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
