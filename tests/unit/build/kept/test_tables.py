# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes of the entries of a kernel's tables: each must fit its table in vmlinux."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_maker import GLOBAL, NOTYPE, Made
from outside import OutsideSandbox

from elivepatch.build.kept.tables import compiled_structures, require_tables
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import EnvironmentFault

SIZES = {
    "ALT_STRUCT_SIZE": 14,
    "BUG_STRUCT_SIZE": 12,
    "EX_STRUCT_SIZE": 12,
    "JUMP_STRUCT_SIZE": 16,
    "ORC_STRUCT_SIZE": 6,
    "STATIC_CALL_STRUCT_SIZE": 8,
    "PARA_STRUCT_SIZE": 16,
}


def vmlinux(place: Path, **lengths: int) -> LinkedSymbols:
    """Return a kernel with tables of these lengths; it has no symbols of the others."""
    made = Made().section(".data", bytes(4096))
    for name, length in lengths.items():
        start, stop = (
            ("__parainstructions", "__parainstructions_end")
            if name == "para"
            else (f"__start_{name}", f"__stop_{name}")
        )
        made.symbol(start, ".data", value=64, kind=NOTYPE, bind=GLOBAL)
        made.symbol(stop, ".data", value=64 + length, kind=NOTYPE, bind=GLOBAL)
    return LinkedSymbols(ElfFile(made.write(place / "vmlinux")), is_vmlinux=True)


def test_tables_of_whole_entries_fit(tmp_path: Path) -> None:
    require_tables(SIZES, vmlinux(tmp_path, __bug_table=120, orc_unwind=600, static_call_sites=64))


def test_the_last_entry_of_the_table_of_paravirtual_calls_is_shorter(tmp_path: Path) -> None:
    require_tables(SIZES, vmlinux(tmp_path, para=16 * 3 + 10))


def test_a_feature_that_the_kernel_lacks_has_neither_structure_nor_table(tmp_path: Path) -> None:
    require_tables(SIZES | {"STATIC_CALL_STRUCT_SIZE": 0}, vmlinux(tmp_path))
    require_tables(SIZES | {"STATIC_CALL_STRUCT_SIZE": 0}, vmlinux(tmp_path, static_call_sites=0))


@pytest.mark.parametrize(
    ("lengths", "sizes", "name"),
    [
        ({"__bug_table": 128}, {}, "BUG_STRUCT_SIZE"),
        ({"orc_unwind": 604}, {}, "ORC_STRUCT_SIZE"),
        ({"para": 16 * 3 + 4}, {}, "PARA_STRUCT_SIZE"),
        ({"static_call_sites": 64}, {"STATIC_CALL_STRUCT_SIZE": 0}, "STATIC_CALL_STRUCT_SIZE"),
    ],
)
def test_a_size_that_does_not_fit_its_table_is_refused_by_name(
    tmp_path: Path, lengths: dict[str, int], sizes: dict[str, int], name: str
) -> None:
    with pytest.raises(EnvironmentFault, match=name) as caught:
        require_tables(SIZES | sizes, vmlinux(tmp_path, **lengths))
    assert caught.value.problem.code == "struct-sizes"


def test_the_structures_are_compiled_by_the_kernels_own_make_as_a_module_outside_of_the_tree(tmp_path: Path) -> None:
    def leaves(output: Path) -> None:
        (output / "sizes").mkdir()
        (output / "sizes/sizes.o").write_bytes(b"object")

    sandbox = OutsideSandbox(leaves=leaves, runs=False)
    made = compiled_structures(tmp_path, sandbox.sandbox, ["make", "CC=gcc-14"], tmp_path)
    assert made.read_bytes() == b"object"
    (program,) = sandbox.programs
    assert program[-2:] == ("make", "CC=gcc-14")
    assert "KCFLAGS='-g" in program[2]


def test_a_link_in_place_of_the_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"of the host")

    def leaves(output: Path) -> None:
        (output / "sizes").mkdir()
        (output / "sizes/sizes.o").symlink_to(tmp_path / "secret")

    with pytest.raises(EnvironmentFault) as caught:
        compiled_structures(tmp_path, OutsideSandbox(leaves=leaves, runs=False).sandbox, ["make"], tmp_path)
    assert caught.value.problem.code == "sandbox-output"
