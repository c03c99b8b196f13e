# SPDX-License-Identifier: GPL-2.0-or-later
"""Bases share the files of their sources: nothing that runs later changes one, and nothing of a kernel is lost."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from edits import Edit, patch_of

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.store import Base
from elivepatch.build.debug.unit_names import unit_names
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox
from elivepatch.files.equal import own_bytes, share_equal_files
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.build import BuildOutcome
from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend
from small_kernels import small_kernel

pytestmark = pytest.mark.kernel

MEMINFO = Edit("fs/proc/meminfo.c", '"MemFree:        "', '"MEMFREE:        "')
BASE_PATCH = Path(__file__).with_name("data") / "cmdline-base.patch"
# objtool rewrites the object in place; no build does the rest: to a file, to its mode and time, to its name.
HARM = """
make CC=$0 HOSTCC=$0 fs/pipe.o >/dev/null || exit 3
echo x >>fs/pipe.c; : >Makefile; chmod 777 fs/open.c; touch fs/exec.c; rm fs/stat.c; mv fs/file.c fs/locks.c
"""
_NAME = re.compile(r"\s*<[0-9a-f]+>\s+DW_AT_name\s+: (?:\([^)]*\): )?(.+?)\s*$")


def state(tree: Path) -> dict[str, tuple[int, int]]:
    """Return number and time of change of each file: both writing and changing mode, time or names show in them."""
    seen = {}
    for place, _, names in os.walk(tree):
        for name in names:
            info = os.lstat(f"{place}/{name}")
            seen[f"{place}/{name}"] = info.st_ino, info.st_ctime_ns
    return seen


def test_no_build_changes_a_file_of_the_tree(base: Base, build: Callable[..., BuildOutcome]) -> None:
    before = state(base.tree)
    assert build(base, patch_of(base.tree, MEMINFO)).problem is None
    assert state(base.tree) == before


def test_no_program_of_a_sandbox_changes_a_file_of_the_tree(backend: LocalBackend, base_6_1: Base) -> None:
    """A file of the tree may be that of other bases too."""
    before = state(base_6_1.tree)
    sandbox = backend.toolchains.sandbox(backend.toolchains.of(base_6_1))
    done = sandbox.run(
        ["sh", "-c", HARM, base_6_1.cc],
        layers=[base_6_1.tree], tools=backend.toolchains.helper().root / "usr/share/kpatch",
    )  # fmt: skip
    assert done.ok, done.tail()
    assert state(base_6_1.tree) == before


def test_a_stranger_who_writes_to_the_source_while_it_is_prepared_changes_no_other_base(
    backend: LocalBackend, base_6_1: Base, reachable_path: Path
) -> None:
    """While a tree is writable, none of its files is shared; afterwards those that were changed are not."""
    names = ("fs/pipe.c", "fs/open.c")
    tree = reachable_path / "tree"
    for path in (tree, tree / "fs"):
        path.mkdir()
        os.chown(path, BUILD_UID, BUILD_UID)
    for name in names:
        shutil.copy2(base_6_1.tree / name, tree / name)
        os.chown(tree / name, BUILD_UID, BUILD_UID)
    before = state(base_6_1.tree)
    sandbox: Sandbox = backend.toolchains.sandbox(backend.toolchains.of(base_6_1))
    sandbox.run(["sh", "-c", "echo x >>fs/pipe.c"], writable=tree).check("Writing")
    share_equal_files(tree, [base_6_1.tree])
    shared = [(tree / name).stat().st_ino == (base_6_1.tree / name).stat().st_ino for name in names]
    assert shared == [False, True]
    shutil.rmtree(tree)
    after = state(base_6_1.tree)
    assert {path for path in after if after[path] != before[path]} == {f"{base_6_1.tree}/fs/open.c"}, "one more name"


def test_two_kernels_from_one_source_have_it_once(backend: LocalBackend, base_6_12: Base) -> None:
    """The small kernel has a patch of its operator and another configuration."""
    other = small_kernel(backend, "6.12", BASE_PATCH, suffix="-own")
    of_one_source = bool(set(other.packages.values()) & set(base_6_12.packages.values()))
    whole = sum(path.lstat().st_size for path in other.tree.rglob("*") if path.is_file())
    assert whole > 1 << 30
    # The archive may have the source of a newer version than its newest kernel: two versions share less.
    assert own_bytes(other.tree) < (120 << 20 if of_one_source else whole // 2)
    one, same = (base.tree / "fs/pipe.c" for base in (other, base_6_12))
    assert (one.stat().st_ino == same.stat().st_ino) is (of_one_source or one.read_bytes() == same.read_bytes())
    assert (other.tree / "fs/proc/cmdline.c").read_text() != (base_6_12.tree / "fs/proc/cmdline.c").read_text()


def test_modules_are_there_once(base: Base) -> None:
    """Their symbols, with which builds locate functions, are an eighth of that."""
    sizes = {
        name: sum(path.stat().st_size for path in (base.directory / name).rglob("*.ko"))
        for name in ("modules", "symbols")
    }
    assert sizes["symbols"] < sizes["modules"] / 4
    assert {path.name for path in (base.directory / "symbols").iterdir()} == {
        path.name for path in base.module_files.values()
    }


@pytest.mark.extended
def test_the_names_of_units_of_a_whole_kernel_are_those_that_readelf_prints(
    archive: Archive, base_6_1: Base, shared_path: Path
) -> None:
    package = archive.find(f"linux-image-{base_6_1.release}-dbg", base_6_1.version)
    (path,) = archive.download([package])
    run(["dpkg-deb", "-x", path, shared_path / "dbg"], timeout_s=900).check("Unpacking the debug package")
    files = [one for one in (shared_path / "dbg").rglob("*") if one.suffix == ".ko" or one.name.startswith("vmlinux-")]
    assert len(files) > 1000
    for file in files:
        printed = run(["readelf", "-wi", "--dwarf-depth=1", file]).text.splitlines()
        expected = [found[1] for line in printed if (found := _NAME.match(line))]
        assert expected, file
        assert list(unit_names(ElfFile(file))) == expected, file
