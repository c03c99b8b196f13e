# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of a series that can become a livepatch is selected, and the notes name everything that is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from edits import series_of

from elivepatch.model.errors import BuildStopped, Problem
from elivepatch.patch.parse import read_diff
from elivepatch.patch.selection import Selection, select
from elivepatch.process import run

SOURCE = "a\nb\nc\n"
TREE = {
    "fs/proc/meminfo.c": SOURCE,
    "lib/string.c": SOURCE,
    "tools/lib/string.c": SOURCE,
    "tools/testing/selftests/proc/read.c": SOURCE,
    "kernel/Makefile": SOURCE,
    "MAINTAINERS": SOURCE,
}
HUNK = "@@ -1,3 +1,4 @@ int heading(void)\n a\n+new\n b\n c\n"


def change(path: str, *, a: str = "a/", b: str = "b/") -> str:
    return f"--- {a}{path}\n+++ {b}{path}\n{HUNK}"


def bare(path: str) -> str:
    return change(path, a="", b="")


FIX = change("fs/proc/meminfo.c")
GIT = "diff --git a/fs/proc/meminfo.c b/fs/proc/meminfo.c\n"
ADDED = "diff --git a/{path} b/{path}\nnew file mode 100644\nindex 000000000000..111111111111\n"
ADDED += "--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+new\n"


def selected(*patches: str) -> Selection:
    return select(series_of(*patches), TREE.get)


def refusal(*patches: str) -> Problem:
    with pytest.raises(BuildStopped) as caught:
        selected(*patches)
    return caught.value.problem


def notes(found: Selection) -> list[tuple[str, str]]:
    return [(note.code, note.message) for note in found.notes]


@pytest.mark.parametrize(
    "path",
    [
        "tools/testing/selftests/proc/read.c",
        "tools/testing/selftests/proc/Makefile",
        "Documentation/filesystems/proc.rst",
        "Documentation/devicetree/bindings/net/box.yaml",
        "MAINTAINERS",
        ".mailmap",
        "drivers/net/README",
        "arch/arm64/kernel/process.c",
        "arch/arm64/Kconfig",
        "arch/powerpc/kernel/entry_64.S",
    ],
)
def test_a_file_that_is_no_part_of_the_kernel_is_left_out_beside_a_fix(path: str) -> None:
    for others in ((change(path) + FIX,), (FIX + change(path),), (FIX, change(path)), (ADDED.format(path=path) + FIX,)):
        found = selected(*others)
        assert [file.path for file in found.touched] == ["fs/proc/meminfo.c"]
        assert all(path not in patch.content.decode() for patch in found.series.patches)
        assert FIX in "".join(patch.content.decode() for patch in found.series.patches)
        ((code, message),) = notes(found)
        assert code == "not-kernel"
        assert path in message


@pytest.mark.parametrize(
    "path",
    ["kernel/Makefile", "fs/Kconfig", "Documentation/Kconfig", "arch/Kconfig", "scripts/mod/modpost.c",
     "tools/objtool/check.c", "tools/include/uapi/linux/bpf.h", "include/uapi/linux/bpf.h", "samples/bpf/a.c",
     "arch/x86/lib/x86-opcode-map.txt", "arch/x86/Kconfig", "arch/x86/kernel/process.c"],
)  # fmt: skip
def test_a_file_that_may_take_part_in_the_build_is_never_left_out(path: str) -> None:
    series = series_of(change(path) + FIX)
    found = select(series, TREE.get)
    assert found.series is series
    assert {file.path for file in found.touched} == {path, "fs/proc/meminfo.c"}
    assert found.notes == ()


@pytest.mark.parametrize("path", ["MAINTAINERS", "tools/testing/selftests/proc/read.c", "arch/arm64/kernel/process.c"])
def test_a_series_of_nothing_else_stays_as_it_is(path: str) -> None:
    series = series_of(change(path))
    found = select(series, TREE.get)
    assert (found.series, found.notes) == (series, ())


def test_a_renamed_document_is_left_out() -> None:
    rename = (
        "diff --git a/Documentation/a.rst b/Documentation/b.rst\nsimilarity index 100%\n"
        "rename from Documentation/a.rst\nrename to Documentation/b.rst\n"
    )
    found = selected(f"Subject: a fix\n\n---\n{rename}{GIT}{FIX}")
    assert [file.path for file in found.touched] == ["fs/proc/meminfo.c"]
    assert "Documentation/a.rst, Documentation/b.rst" in notes(found)[0][1]


def test_a_source_that_becomes_a_test_is_not_left_out() -> None:
    move = (
        "diff --git a/lib/string.c b/tools/testing/string.c\nsimilarity index 100%\n"
        "rename from lib/string.c\nrename to tools/testing/string.c\n"
    )
    found = selected(move + GIT + FIX + change("MAINTAINERS"))
    assert {file.path for file in found.touched} == {"lib/string.c", "tools/testing/string.c", "fs/proc/meminfo.c"}


@pytest.mark.parametrize("git", [True, False])
def test_names_without_prefix_are_read_from_the_top(git: bool) -> None:
    header = "diff --git fs/proc/meminfo.c fs/proc/meminfo.c\nindex 0123456789ab..ba9876543210 100644\n" if git else ""
    found = selected(header + bare("fs/proc/meminfo.c"))
    assert [file.path for file in found.touched] == ["fs/proc/meminfo.c"]
    assert found.series.patches[0].content.decode().endswith(FIX)
    assert notes(found) == [
        ("no-prefix", "0.patch has no a/ and b/ before its names: they were read from the top of the source.")
    ]


def test_what_git_makes_without_prefixes_becomes_what_it_makes_with_them(tmp_path: Path) -> None:
    for path in ("fs/proc/meminfo.c", "fs/old.c", "MAINTAINERS"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(SOURCE)
    run(["git", "init", "-q"], cwd=tmp_path).check("git init")
    run(["git", "add", "."], cwd=tmp_path).check("git add")
    (tmp_path / "fs/proc/meminfo.c").write_text("a\nc\nd")
    (tmp_path / "fs/new.c").write_text("new\n")
    (tmp_path / "fs/old.c").unlink()
    run(["git", "add", "-N", "fs/new.c"], cwd=tmp_path).check("git add")
    plain, with_prefix = (
        run(["git", "diff", "--no-color", f"--{side}-prefix{value}"], cwd=tmp_path).text
        for side, value in (("no", ""), ("src", "=a/"))
    )
    made = select(series_of(plain), {**TREE, "fs/old.c": SOURCE}.get).series.patches[0].content.decode()
    assert str(read_diff(made)) == str(read_diff(with_prefix))
    assert len(read_diff(made)) == 3


def test_a_patch_without_prefixes_may_follow_one_that_adds_its_file() -> None:
    new = "--- /dev/null\n+++ fs/new.c\n@@ -0,0 +1,3 @@\n+a\n+b\n+c\n"
    found = selected(FIX, new, bare("fs/new.c"))
    assert {file.path for file in found.touched} == {"fs/proc/meminfo.c", "fs/new.c"}


def test_a_name_that_can_be_read_in_two_ways_is_refused() -> None:
    problem = refusal(bare("tools/lib/string.c"))
    assert problem.code == "patch-path"
    assert problem.message == "0.patch names tools/lib/string.c, which is lib/string.c if tools/ is a prefix."
    assert "with a/ and b/ before the names" in problem.advice
    assert notes(selected(change("tools/lib/string.c") + FIX)) == []


def test_a_name_without_prefix_that_the_source_does_not_have_is_told_so() -> None:
    problem = refusal(bare("fs/proc/nothing.c"))
    assert problem.code == "does-not-apply"
    assert "has no a/ and b/ before its names, and this kernel's source has no fs/proc/nothing.c" in problem.message


@pytest.mark.parametrize(("a", "b"), [("a/", "b/"), ("linux.orig/", "linux/"), ("i/", "w/"), ("kernel/", "kernel/")])
def test_any_prefix_of_one_directory_is_a_prefix(a: str, b: str) -> None:
    series = series_of(change("fs/proc/meminfo.c", a=a, b=b))
    assert select(series, TREE.get).series is series


@pytest.mark.parametrize("name", ["../../etc/passwd", "fs/../../etc/passwd", "/etc/passwd", "fs//x.c"])
def test_no_name_outside_the_tree_is_looked_up(name: str) -> None:
    asked = list[str]()

    def read(path: str) -> str | None:
        asked.append(path)
        return None

    with pytest.raises(BuildStopped) as caught:
        select(series_of(bare(name)), read)
    assert caught.value.problem.code == "patch-path"
    assert asked == []
