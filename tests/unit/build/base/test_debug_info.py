# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a stranger's kernel: what parsed it leaves its files in one place, and its compiler is known by its word."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from built_tree import MODULE, built_tree
from compiled import needs_gcc
from elf_maker import GLOBAL, NOTYPE, Made
from outside import OutsideSandbox

from elivepatch.build.base.debug_info import check_compiler, measured_sizes, read_debug_info, struct_sizes
from elivepatch.build.roots.description import Toolchain
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.kbuild.record import read_build
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import Digest
from elivepatch.process import run

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


TOOLCHAIN: dict[str, Any] = {
    "name": "debian-12", "root": Path("/nowhere"), "digest": Digest("0"), "compiler": "gcc-12", "size_bytes": 1,
    "seconds": 1.0, "comment": "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", "rust": False, "declared": "",
    "says": "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0",
}  # fmt: skip


@pytest.mark.parametrize(
    "comment", [b"GCC: (Debian 12.2.0-15) 12.2.0\0", b"", b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0GCC: (x) 1\0"]
)
def test_a_kernel_of_another_compiler_than_its_configuration_names_is_refused(tmp_path: Path, comment: bytes) -> None:
    elf = ElfFile(Made().section(".comment", comment).write(tmp_path / "vmlinux"))
    with pytest.raises(EnvironmentFault) as caught:
        check_compiler(elf, Toolchain(**TOOLCHAIN), "6.1")
    assert caught.value.problem.code == "toolchain-match"
    assert "12.2.0-14+deb12u1" in caught.value.problem.message


def test_a_kernel_of_the_toolchains_compiler_is_accepted(tmp_path: Path) -> None:
    comment = TOOLCHAIN["comment"].encode() + b"\0"
    check_compiler(
        ElfFile(Made().section(".comment", comment * 2).write(tmp_path / "vmlinux")), Toolchain(**TOOLCHAIN), "6.1"
    )


def test_a_kernel_of_clang_is_known_by_its_own_comment_and_not_by_its_linkers(tmp_path: Path) -> None:
    clang = "Debian clang version 19.1.7 (3+b1)"
    comment = f"{clang}\0Linker: Debian LLD 19.1.7 (compatible with GNU linkers)\0{clang}\0".encode()
    elf = ElfFile(Made().section(".comment", comment).write(tmp_path / "vmlinux"))
    check_compiler(elf, Toolchain(**TOOLCHAIN | {"comment": clang}), "6.12")
    with pytest.raises(EnvironmentFault):
        check_compiler(elf, Toolchain(**TOOLCHAIN | {"comment": "Debian clang version 18.1.8"}), "6.12")


def test_sizes_of_special_structures_are_read() -> None:
    sizes = struct_sizes(SIZES + "static_call_site\t8\t0\nlist_head\t16\t0\n")
    assert sizes["ALT_STRUCT_SIZE"] == 14
    assert sizes["STATIC_CALL_STRUCT_SIZE"] == 8
    assert sizes["PARA_STRUCT_SIZE"] == 0, "kernels from 6.8 on have none"


def test_a_missing_special_structure_is_named() -> None:
    with pytest.raises(EnvironmentFault, match="ORC_STRUCT_SIZE"):
        struct_sizes(SIZES.replace("orc_entry", "other"))


def no_units(output: Path) -> None:
    """Leave what the programs leave of a kernel without debug information."""
    good(output)
    for name in ("vmlinux.units", "modules.units", "sizes"):
        (output / name).write_text("")


def test_a_kernel_without_debug_information_and_without_a_record_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        read(tmp_path, OutsideSandbox(leaves=no_units))
    assert caught.value.problem.code == "debug-info"
    assert "CONFIG_DEBUG_INFO" in caught.value.problem.advice
    assert "--build" in caught.value.problem.advice


@needs_gcc
def test_a_kernel_without_debug_information_has_its_units_from_the_record_of_its_build(tmp_path: Path) -> None:
    tree = built_tree(tmp_path / "tree")

    def leaves(output: Path) -> None:
        no_units(output)
        (output / "vmlinux").write_bytes((tree / "vmlinux").read_bytes())
        (output / "symbols/a.ko").unlink()
        (output / "symbols/fat-fs.ko").write_bytes((tree / f"{MODULE}.ko").read_bytes())

    (tmp_path / "base").mkdir()
    sandbox = OutsideSandbox(leaves=leaves, runs=False)
    facts = read_debug_info(
        sandbox.sandbox, inputs=tmp_path, vmlinux="vmlinux", into=tmp_path / "base", record=read_build(tree)
    )
    assert facts.compiled["fs/fat-fs/dir.c"] == ("fs/fat-fs/dir.c", {"fat_fs"})
    assert facts.compiled["init/main.c"] == ("init/main.c", {"vmlinux"})
    assert facts.struct_sizes == {}, "they are measured in the prepared tree"


@pytest.mark.parametrize("length", [120, 128])
def test_measured_sizes_must_fit_the_tables_of_the_kernel(tmp_path: Path, length: int) -> None:
    listing = tmp_path / "sizes.o"
    listing.write_text(SIZES)
    made = Made().section(".data", bytes(4096))
    made.symbol("__start___bug_table", ".data", value=0, kind=NOTYPE, bind=GLOBAL)
    made.symbol("__stop___bug_table", ".data", value=length, kind=NOTYPE, bind=GLOBAL)
    vmlinux = made.write(tmp_path / "vmlinux")
    helper = cast("Sandbox", SimpleNamespace(run=lambda *_, **__: run(["cat", listing])))
    if length % 12 == 0:
        assert measured_sizes(listing, helper, vmlinux)["BUG_STRUCT_SIZE"] == 12
    else:
        with pytest.raises(EnvironmentFault) as caught:
            measured_sizes(listing, helper, vmlinux)
        assert caught.value.problem.code == "struct-sizes"
