# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a stranger's kernel: what the programs that parsed it leave is never followed out of their directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from outside import OutsideSandbox

from elivepatch.build.base.debug_info import read_debug_info
from elivepatch.model.errors import EnvironmentFault

UNITS = "    <c>   DW_AT_name        : (indirect string, offset: 0x1): fs/a.c\n"
MODULES = "File: ./lib/a.ko\n    <c>   DW_AT_name        : drivers/a.c\n"
SIZES = "alt_instr\t14\t0\nbug_entry\t12\t0\nexception_table_entry\t12\t0\njump_entry\t16\t0\norc_entry\t6\t0\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Make a file of the host that only root may read."""
    path = tmp_path / "secret"
    path.write_text(SIZES)
    path.chmod(0o600)
    return path


def good(output: Path) -> None:
    (output / "symbols").mkdir()
    for name, content in (
        ("vmlinux", "kernel"), ("vmlinux.units", UNITS), ("modules.units", MODULES), ("sizes", SIZES),
        ("symbols/a.ko", "a"),
    ):  # fmt: skip
        (output / name).write_text(content)


def read(tmp_path: Path, sandbox: OutsideSandbox) -> Path:
    into = tmp_path / "base"
    into.mkdir()
    sandbox.runs = False
    read_debug_info(sandbox.sandbox, inputs=tmp_path, vmlinux="vmlinux", into=into)
    return into


def test_the_kernel_and_its_modules_become_files_of_ours(tmp_path: Path) -> None:
    into = read(tmp_path, OutsideSandbox(leaves=good))
    for name in ("vmlinux", "symbols/a.ko"):
        seen = (into / name).stat()
        assert (seen.st_uid, stat.S_IMODE(seen.st_mode)) == (os.getuid(), 0o644)
    assert not (into / "stripped").exists()


def test_a_module_whose_sources_are_not_known_is_refused(tmp_path: Path) -> None:
    """A patch of them would be "not built", which is to say that nothing has to be done."""

    def leaves(output: Path) -> None:
        good(output)
        (output / "symbols/snd-hda-intel.ko").write_text("stripped")

    with pytest.raises(EnvironmentFault) as caught:
        read(tmp_path, OutsideSandbox(leaves=leaves))
    assert caught.value.problem.code == "debug-info"
    assert "1 of 2 modules" in caught.value.problem.message
    assert "snd_hda_intel" in caught.value.problem.message


@pytest.mark.parametrize("name", ["vmlinux", "vmlinux.units", "modules.units", "sizes"])
def test_a_link_in_place_of_a_file_is_neither_read_nor_changed(tmp_path: Path, secret: Path, name: str) -> None:
    def leaves(output: Path) -> None:
        good(output)
        (output / name).unlink()
        (output / name).symlink_to(secret)

    before = secret.stat()
    with pytest.raises(EnvironmentFault) as caught:
        read(tmp_path, OutsideSandbox(leaves=leaves))
    assert caught.value.problem.code == "sandbox-output"
    assert secret.stat().st_mode == before.st_mode
    assert secret.stat().st_uid == before.st_uid


def test_a_link_among_the_modules_does_not_become_part_of_the_base(tmp_path: Path, secret: Path) -> None:
    def leaves(output: Path) -> None:
        good(output)
        (output / "symbols/b.ko").symlink_to(secret)

    into = read(tmp_path, OutsideSandbox(leaves=leaves))
    assert [path.name for path in (into / "symbols").iterdir()] == ["a.ko"]


def test_a_link_in_place_of_the_directory_of_modules_is_refused(tmp_path: Path) -> None:
    def leaves(output: Path) -> None:
        good(output)
        (output / "symbols/a.ko").unlink()
        (output / "symbols").rmdir()
        (output / "symbols").symlink_to(tmp_path)

    with pytest.raises(EnvironmentFault):
        read(tmp_path, OutsideSandbox(leaves=leaves))
