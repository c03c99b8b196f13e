# SPDX-License-Identifier: GPL-2.0-or-later
"""Proof of a record: it must name each source that the symbol tables of a kernel show, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from built_tree import MODULE, VMLINUX_SOURCES, built_tree
from compiled import needs_gcc

from elivepatch.build.kept.record import names_sources, proved_sources, require_recordable
from elivepatch.kernel.config import KernelConfig
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.kbuild.record import BuiltObject, read_build
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import run

pytestmark = needs_gcc


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_tree(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def record(tree: Path) -> tuple[BuiltObject, ...]:
    return read_build(tree)


def refusal(record: tuple[BuiltObject, ...], vmlinux: Path, *modules: Path) -> tuple[str, str]:
    with pytest.raises(EnvironmentFault) as caught:
        proved_sources(record, vmlinux, modules)
    return caught.value.problem.code, caught.value.problem.message


def test_the_record_of_a_kernel_gives_what_debug_information_gives(tree: Path, record: tuple[BuiltObject, ...]) -> None:
    found = proved_sources(record, tree / "vmlinux", [tree / f"{MODULE}.ko"])
    assert found["fs/core.c"] == ("fs/core.c", {"vmlinux"})
    assert found["arch/x86/entry/entry_64.S"] == ("arch/x86/entry/entry_64.S", {"vmlinux"})
    assert found["fs/fat-fs/dir.c"] == ("fs/fat-fs/dir.c", {"fat_fs"})
    assert found["scripts/module-common.c"] == ("scripts/module-common.c", {"fat_fs"}), "a part of each module"
    assert len(found) == len(record) + 1


@pytest.mark.parametrize("source", ["fs/core.c", "lib/plain.c", "fs/fat-fs/dir.c"])
def test_a_source_that_the_record_lacks_is_named(tree: Path, record: tuple[BuiltObject, ...], source: str) -> None:
    """It would count as not built, and a fix of it as not needed."""
    code, message = refusal(
        tuple(one for one in record if one.source != source), tree / "vmlinux", tree / f"{MODULE}.ko"
    )
    assert code == "kbuild-files"
    assert Path(source).name in message


def test_assembly_that_the_record_lacks_is_named_if_the_kernel_shows_it(
    tree: Path, record: tuple[BuiltObject, ...]
) -> None:
    without = tuple(one for one in record if not one.source.endswith(".S"))
    assert "entry_64.o" in refusal(without, tree / "vmlinux", tree / f"{MODULE}.ko")[1]


def test_a_source_that_the_kernel_lacks_is_named(tree: Path, record: tuple[BuiltObject, ...]) -> None:
    more = (*record, BuiltObject("vmlinux", "fs/more.c", record[0].mark))
    assert "more.c" in refusal(more, tree / "vmlinux", tree / f"{MODULE}.ko")[1]


def test_a_source_of_the_same_name_in_another_place_is_not_taken_for_it(
    tree: Path, record: tuple[BuiltObject, ...]
) -> None:
    """The directory was built again with other options: as many sources, of the same names."""
    other = tuple(
        one._replace(source="sound/core.c", mark="0" * 32) if one.source == "fs/core.c" else one for one in record
    )
    code, message = refusal(other, tree / "vmlinux", tree / f"{MODULE}.ko")
    assert code == "kbuild-files"
    assert "core.c" in message


def test_sources_without_local_symbols_are_known_by_their_functions(
    tree: Path, record: tuple[BuiltObject, ...]
) -> None:
    other = tuple(
        one._replace(source="sound/plain.c", functions=("sound",)) if one.source == "lib/plain.c" else one
        for one in record
    )
    assert "plain.c" in refusal(other, tree / "vmlinux", tree / f"{MODULE}.ko")[1]


def test_the_record_of_a_later_build_is_refused(tree: Path, tmp_path: Path) -> None:
    changed = VMLINUX_SOURCES | {"fs/core.c": "static int other; int fs_open(void) { return other++; }"}
    later = read_build(built_tree(tmp_path, sources=changed))
    assert "core.c" in refusal(later, tree / "vmlinux", tree / f"{MODULE}.ko")[1]


def test_each_module_needs_its_record_and_each_record_its_module(
    tree: Path, record: tuple[BuiltObject, ...], tmp_path: Path
) -> None:
    code, message = refusal(record, tree / "vmlinux")
    assert (code, "fat_fs" in message) == ("kbuild-files", True)
    own = tmp_path / "own.ko"
    own.write_bytes((tree / f"{MODULE}.ko").read_bytes())
    code, message = refusal(record, tree / "vmlinux", tree / f"{MODULE}.ko", own)
    assert (code, "own" in message) == ("kbuild-files", True)


@pytest.mark.parametrize(("name", "how"), [("vmlinux", "--strip-all"), (f"{MODULE}.ko", "--strip-debug")])
def test_a_stripped_file_names_no_sources_and_is_refused(
    tree: Path, record: tuple[BuiltObject, ...], tmp_path: Path, name: str, how: str
) -> None:
    stripped = tmp_path / Path(name).name
    run(["strip", how, "-o", stripped, tree / name]).check("Stripping")
    assert not names_sources(ElfFile(stripped))
    assert names_sources(ElfFile(tree / name))
    files = {"vmlinux": tree / "vmlinux", f"{MODULE}.ko": tree / f"{MODULE}.ko"} | {name: stripped}
    code, message = refusal(record, files["vmlinux"], files[f"{MODULE}.ko"])
    assert code == "debug-info"
    assert "neither debug information nor a symbol table" in message


def test_two_objects_of_one_source_in_one_parent_are_refused(tmp_path: Path) -> None:
    tree = built_tree(tmp_path)
    record = read_build(tree)
    twice = tuple(one._replace(source="lib/plain.c") if one.source == "lib/even/plain.c" else one for one in record)
    assert "two objects" in refusal(twice, tree / "vmlinux", tree / f"{MODULE}.ko")[1]


@pytest.mark.parametrize("option", ["RUST", "CC_IS_CLANG"])
def test_a_kernel_whose_symbols_do_not_show_its_sources_is_refused_by_name(option: str) -> None:
    with pytest.raises(EnvironmentFault, match=f"CONFIG_{option}") as caught:
        require_recordable(KernelConfig({option: "y"}))
    assert caught.value.problem.code == "debug-info"
    require_recordable(KernelConfig({option: "n", "CC_IS_GCC": "y"}))
