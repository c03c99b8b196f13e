# SPDX-License-Identifier: GPL-2.0-or-later
"""kpatch-build finds what it needs beside itself, and is not changed for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_base import bare_base

from elivepatch.build.builders.kpatch import kpatch_tools
from elivepatch.build.roots.description import Toolchain
from elivepatch.model.kernel import Digest
from elivepatch.process import run

SCRIPT = b"#!/bin/bash\n# what the distribution ships\n"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Make the directory that a sandbox sees as /tools."""
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/kpatch-build").write_bytes(SCRIPT)
    helper = Toolchain(
        name="debian-13",
        root=root,
        digest=Digest("a" * 64),
        compiler="gcc-14",
        comment="GCC",
        size_bytes=0,
        seconds=0,
        says="gcc-14",
        rust=False,
        declared="",
    )
    return kpatch_tools(bare_base(tmp_path), helper, tmp_path / "tools")


def test_the_script_is_the_distributions(tools: Path) -> None:
    assert (tools / "bin/kpatch-build").read_bytes() == SCRIPT


def test_the_tools_are_where_the_script_looks_for_them(tools: Path) -> None:
    links = {path.name: str(path.readlink()) for path in tools.rglob("*") if path.is_symlink()}
    assert links == {
        "create-klp-module": "/usr/lib/kpatch/create-klp-module",
        "create-kpatch-module": "/usr/lib/kpatch/create-kpatch-module",
        "kpatch": "/usr/share/kpatch",
        "kpatch-cc": "/usr/lib/kpatch/kpatch-cc",
    }


@pytest.mark.parametrize("given", [["--klp-arch", "a.o", "b.o"], ["a.o", "b.o"]])
def test_the_diff_tool_is_called_without_what_only_old_kernels_want(tools: Path, given: list[str]) -> None:
    program = tools / "lib/kpatch/create-diff-object"
    program.write_text(program.read_text().replace("/usr/lib/kpatch/create-diff-object", "echo"))
    assert run([program, *given]).text == "a.o b.o\n"


def test_gcc_is_the_compiler_of_the_base(tools: Path) -> None:
    program = tools / "bin/gcc"
    program.write_text(program.read_text().replace("gcc-14", "echo gcc-14"))
    assert run([program, "-c", "a b.c"]).text == "gcc-14 -c a b.c\n"
