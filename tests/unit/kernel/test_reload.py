# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules for which a livepatch has relocations of its own are read from its section names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_host import module_bytes

from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.reload import relocated_modules


@pytest.mark.parametrize(
    ("named", "found"),
    [([], ()), (["vmlinux"], ()), (["8021q", "vmlinux"], ("8021q",)), (["xfs", "8021q", "xfs"], ("8021q", "xfs"))],
)
def test_each_module_with_relocations_counts_once_and_the_kernel_does_not(
    tmp_path: Path, named: list[str], found: tuple[str, ...]
) -> None:
    file = tmp_path / "x.ko"
    file.write_bytes(module_bytes(["livepatch=Y"], named))
    assert relocated_modules(ElfFile(file)) == found


@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=80), max_size=4))
def test_a_name_that_no_module_can_have_is_none(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "named.ko"
    file.write_bytes(module_bytes(["livepatch=Y"], names))
    assert all(name.replace("_", "a").isalnum() and len(name) <= 55 for name in relocated_modules(ElfFile(file)))
