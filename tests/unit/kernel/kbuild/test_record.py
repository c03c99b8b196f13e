# SPDX-License-Identifier: GPL-2.0-or-later
"""Record of a build: the objects of a directory that kbuild left, as text that a host can send."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from built_tree import MODULE, built_tree
from compiled import needs_gcc
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.kbuild.record import (
    RECORD_LIMIT_BYTES,
    BuiltObject,
    format_record,
    mark_of,
    parse_record,
    read_build,
)
from elivepatch.model.errors import EnvironmentFault


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_tree(tmp_path_factory.mktemp("built"))


@pytest.fixture
def tree(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "tree")


def refusal(directory: Path) -> str:
    with pytest.raises(EnvironmentFault) as caught:
        read_build(directory)
    assert caught.value.problem.code == "kbuild-files"
    return caught.value.problem.message


@needs_gcc
def test_each_object_has_its_source_and_its_parent(tree: Path) -> None:
    found = {one.source: one for one in read_build(tree)}
    assert {name: one.parent for name, one in found.items()} == {
        "init/main.c": "vmlinux",
        "fs/core.c": "vmlinux",
        "drivers/core.c": "vmlinux",
        "lib/plain.c": "vmlinux",
        "lib/even/plain.c": "vmlinux",
        "arch/x86/entry/entry_64.S": "vmlinux",
        "fs/fat-fs/dir.c": "fat_fs",
        "fs/fat-fs/file.c": "fat_fs",
    }
    assert found["fs/core.c"].mark == mark_of([("open_it", 2)])
    assert found["fs/core.c"].functions == ()
    assert found["lib/plain.c"].functions == ("plain",), "without local symbols its functions stand for it"
    assert found["arch/x86/entry/entry_64.S"].mark == ""


@needs_gcc
@pytest.mark.parametrize("prefix", ["/home/ann/linux/", "../"])
def test_a_kernel_that_was_built_outside_its_source_has_the_same_record(built: Path, tree: Path, prefix: str) -> None:
    for command in tree.rglob(".*.o.cmd"):
        command.write_text(re.sub(r"(?m)^(source_\S+ := )", rf"\1{prefix}", command.read_text()))
    assert read_build(tree) == read_build(built)


@needs_gcc
def test_what_is_linked_last_belongs_to_the_kernel_too(tree: Path) -> None:
    for name in ("init/version-timestamp.o", "init/.version-timestamp.o.cmd"):
        text = (tree / name.replace("version-timestamp", "main")).read_bytes()
        (tree / name).write_bytes(text.replace(b"init/main", b"init/version-timestamp"))
    assert "init/version-timestamp.c" in {one.source for one in read_build(tree)}


@needs_gcc
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("vmlinux.a", "vmlinux.a"),
        ("init/.main.o.cmd", ".main.o.cmd"),
        ("fs/.core.o.cmd", ".core.o.cmd"),
        (f"{MODULE}.mod", "fat-fs.mod"),
    ],
)
def test_a_directory_that_lacks_a_file_of_kbuild_is_refused(tree: Path, name: str, word: str) -> None:
    (tree / name).unlink()
    assert word in refusal(tree)


@needs_gcc
def test_a_link_in_place_of_a_file_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "modules.order").rename(tmp_path / "elsewhere")
    (tree / "modules.order").symlink_to(tmp_path / "elsewhere")
    assert "link" in refusal(tree)


@needs_gcc
def test_an_object_outside_of_the_directory_is_refused(tree: Path) -> None:
    (tree / f"{MODULE}.mod").write_text("../../outside.o\n")
    assert "outside of it" in refusal(tree)


@needs_gcc
def test_an_object_with_another_name_than_its_source_is_refused(tree: Path) -> None:
    command = tree / "fs/.core.o.cmd"
    command.write_text(command.read_text().replace("source_fs/core.o := fs/core.c", "source_fs/core.o := fs/other.c"))
    assert "another name" in refusal(tree)


objects = st.builds(
    BuiltObject,
    parent=st.from_regex(r"\w{1,20}", fullmatch=True).filter(str.isascii),
    source=st.from_regex(r"[a-z./_-]{1,30}\.[cS]", fullmatch=True),
    mark=st.sampled_from(["", mark_of([]), mark_of([("a", 2)])]),
    functions=st.lists(st.from_regex(r"[a-z_.]{1,10}", fullmatch=True), max_size=8).map(tuple),
)


@given(st.lists(objects, min_size=1, max_size=20))
def test_a_record_comes_back_from_its_text(found: list[BuiltObject]) -> None:
    assert parse_record(format_record(found)) == tuple(found)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_refused_and_nothing_else(content: bytes) -> None:
    with suppress(EnvironmentFault):
        assert format_record(parse_record(content)) == content.removesuffix(b"\n") + b"\n"


@pytest.mark.parametrize(
    "line", [b"", b"vmlinux", b"vmlinux fs/a.c", b"vmlinux fs/a.c 12", b"vmlinux  fs/a.c -", b"a-b fs/a.c -",
             b"vmlinux fs/a.c - " + b"f " * 9]
)  # fmt: skip
def test_a_malformed_line_is_named(line: bytes) -> None:
    with pytest.raises(EnvironmentFault, match="Line 2"):
        parse_record(b"vmlinux init/main.c -\n" + line + b"\n")


def test_a_record_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(EnvironmentFault, match="larger than 16 MiB"):
        parse_record(b"\n" * (RECORD_LIMIT_BYTES + 1))
