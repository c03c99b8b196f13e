# SPDX-License-Identifier: GPL-2.0-or-later
"""A source patch is bytes from a stranger: it is understood, or refused with one of the patch-... codes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.errors import BuildStopped, Kind, Problem
from elivepatch.model.series import SERIES_LIMIT_BYTES, PatchSeries, SourcePatch
from elivepatch.patch.parse import FileKind, TouchedFile, kind_of, read_series

HUNK = "@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"


def diff(old: str, new: str | None = None, hunk: str = HUNK) -> str:
    return f"--- {old}\n+++ {new or old.replace('a/', 'b/', 1)}\n{hunk}"


def read(*texts: str | bytes) -> tuple[TouchedFile, ...]:
    contents = [text.encode() if isinstance(text, str) else text for text in texts]
    return read_series(PatchSeries(tuple(SourcePatch(f"{n}.patch", content) for n, content in enumerate(contents))))


def refusal(*texts: str | bytes) -> Problem:
    with pytest.raises(BuildStopped) as caught:
        read(*texts)
    return caught.value.problem


def test_a_plain_diff_touches_its_file() -> None:
    assert read(diff("a/fs/pipe.c")) == (
        TouchedFile(path="fs/pipe.c", kind=FileKind.SOURCE, added=False, removed=False),
    )


def test_git_mail_with_text_around_it_is_read() -> None:
    mail = (
        "From 0123 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] pipe: fix\n\nText.\n---\n fs/pipe.c | 2 +-\n\n"
        f"diff --git a/fs/pipe.c b/fs/pipe.c\nindex 11..22 100644\n{diff('a/fs/pipe.c')}-- \n2.39.5\n\n"
    )
    assert [file.path for file in read(mail)] == ["fs/pipe.c"]


def test_timestamps_behind_a_tab_are_no_part_of_the_name() -> None:
    assert read(diff("a/fs/pipe.c\t2026-01-01 00:00:00"))[0].path == "fs/pipe.c"


def test_line_ends_of_mail_are_read() -> None:
    assert read(diff("a/fs/pipe.c").replace("\n", "\r\n"))[0].path == "fs/pipe.c"


def test_a_file_of_several_patches_is_named_once() -> None:
    files = read(diff("a/fs/pipe.c"), diff("a/fs/pipe.c") + diff("a/fs/exec.c"))
    assert [file.path for file in files] == ["fs/pipe.c", "fs/exec.c"]


def test_a_file_that_a_later_patch_removes_counts_as_removed() -> None:
    (file,) = read(diff("a/fs/pipe.c"), diff("a/fs/pipe.c", "/dev/null", "@@ -1 +0,0 @@\n-one\n"))
    assert file.removed


def test_added_and_removed_files_are_marked() -> None:
    added = diff("/dev/null", "b/fs/new.c", "@@ -0,0 +1 @@\n+one\n")
    removed = diff("a/fs/old.c", "/dev/null", "@@ -1 +0,0 @@\n-one\n")
    assert [(file.path, file.added, file.removed) for file in read(added + removed)] == [
        ("fs/new.c", True, False),
        ("fs/old.c", False, True),
    ]


def test_a_rename_is_a_removal_and_an_addition() -> None:
    text = (
        "diff --git a/fs/old.c b/Documentation/new.c\nsimilarity index 100%\n"
        "rename from fs/old.c\nrename to Documentation/new.c\n"
    )
    assert [(file.path, file.added, file.removed) for file in read(text)] == [
        ("fs/old.c", False, True),
        ("Documentation/new.c", True, False),
    ]


def test_a_file_whose_mode_alone_changes_is_touched() -> None:
    mode = "diff --git a/scripts/x.sh b/scripts/x.sh\nold mode 100644\nnew mode 100755\n"
    assert [file.path for file in read(mode + "diff --git a/fs/pipe.c b/fs/pipe.c\n" + diff("a/fs/pipe.c"))] == [
        "scripts/x.sh",
        "fs/pipe.c",
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "patch-empty"),
        (b" \n\n", "patch-empty"),
        (b"Just a letter.\n", "patch-empty"),
        (b"--- a/fs/pipe.c\n+++ b/fs/pipe.c\n", "patch-empty"),
        (b"\x7fELF\x02\x01\x01\0\0", "patch-binary"),
        (diff("a/fs/pipe.c").encode() + b"\0", "patch-binary"),
        (b"diff --git a/x.bin b/x.bin\nGIT binary patch\nliteral 3\n", "patch-binary"),
        (b"Binary files a/x.bin and b/x.bin differ\n", "patch-binary"),
        (diff("a/fs/pipe.c").encode().replace(b"two", b"tw\xf6"), "patch-encoding"),
        (b"@@ -1 +1 @@\n-a\n+b\n", "patch-malformed"),
        (diff("a/fs/pipe.c", hunk="@@ -1,3 +1,3 @@\n one\n-two\n").encode(), "patch-malformed"),
        (diff("a/fs/pipe.c", hunk="@@ -1 +1 @@\nfolded\n-a\n+b\n").encode(), "patch-malformed"),
        (diff("/dev/null", "/dev/null").encode(), "patch-malformed"),
        (diff("../../etc/passwd").encode(), "patch-path"),
        (diff("a/../../etc/passwd").encode(), "patch-path"),
        (diff("a/fs/../../x.c").encode(), "patch-path"),
        (diff("a/./fs/x.c").encode(), "patch-path"),
        (diff("a//etc/passwd").encode(), "patch-path"),
        (diff("/etc/passwd", "/etc/passwd").encode(), "patch-path"),
        (diff("pipe.c", "pipe.c").encode(), "patch-path"),
        (diff("a/fs/$(id).c").encode(), "patch-path"),
        (diff("a/fs/a;b.c").encode(), "patch-path"),
        (diff('"a/fs/\\056\\056/x.c"', '"b/fs/\\056\\056/x.c"').encode(), "patch-path"),
        (diff("a/" + "x" * 300 + ".c").encode(), "patch-path"),
        (b"diff --git a/fs/l b/fs/l\nnew file mode 120000\n" + diff("/dev/null", "b/fs/l").encode(), "patch-path"),
        (b"diff --git a/fs/l b/fs/l\nold mode 100644\nnew mode 120000\n" + diff("a/fs/l").encode(), "patch-path"),
        (b"diff --git a/fs/l b/fs/l\nnew file mode 160000\n" + diff("/dev/null", "b/fs/l").encode(), "patch-path"),
    ],
)
def test_what_is_no_plain_diff_inside_the_tree_is_refused(content: bytes, code: str) -> None:
    problem = refusal(content)
    assert (problem.code, problem.kind) == (code, Kind.FAILURE)
    assert problem.advice


def test_the_refused_patch_is_named() -> None:
    assert refusal(diff("a/fs/pipe.c"), "").message.startswith("1.patch ")


def test_a_refused_name_is_shown_harmless_and_shortened() -> None:
    message = refusal(diff("a/\x1b[2J" + "x" * 500)).message
    assert "\x1b" not in message
    assert len(message) < 250


def padded(size: int) -> bytes:
    """Return a good patch of `size` bytes, most of them in its description."""
    patch = diff("a/fs/pipe.c").encode()
    return b"#" * (size - len(patch) - 1) + b"\n" + patch


@pytest.mark.parametrize("parts", [1, 6], ids=["one patch", "six patches"])
def test_a_builder_accepts_every_series_that_a_request_can_hold(parts: int) -> None:
    series = [padded(SERIES_LIMIT_BYTES // parts)] * parts
    assert [file.path for file in read(*series)] == ["fs/pipe.c"]


@pytest.mark.parametrize("parts", [1, 6], ids=["one patch", "six patches"])
def test_a_series_over_the_limit_is_refused_before_it_is_parsed(parts: int) -> None:
    series = [padded(SERIES_LIMIT_BYTES // parts)] * parts
    assert refusal(*series, b"+").code == "patch-too-large"


def test_a_series_without_patches_is_empty() -> None:
    assert refusal().code == "patch-empty"


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_files_or_a_refusal(content: bytes) -> None:
    check(content)


pieces = st.sampled_from(
    [
        "diff --git a/fs/x.c b/fs/x.c\n", "--- a/fs/x.c\n", "+++ b/fs/x.c\n", "--- /dev/null\n", "+++ /dev/null\n",
        "@@ -1 +1 @@\n", "@@ -0,0 +1,2 @@\n", "@@ -1,999999999 +1 @@\n", "-a\n", "+b\n", " c\n", "\n",
        "\\ No newline at end of file\n",
        "new file mode 100644\n", "deleted file mode 100644\n", "old mode 100755\n", "rename from a\n", "rename to b\n",
        "index 1..2 100644\n", "similarity index 90%\n", "Index: fs/x.c\n", "--- \n", "+++ \n", "-- \n2.39\n",
        "--- a/../x\n", "+++ b/\x0cx.c\n", "diff --git http://a http://b\n", "\u2028@@ -1 +1 @@\n",
    ]
)  # fmt: skip


@given(st.lists(pieces, max_size=14))
def test_any_mixture_of_a_diffs_lines_is_files_or_a_refusal(lines: list[str]) -> None:
    check("".join(lines).encode())


def check(content: bytes) -> None:
    try:
        files = read(content)
    except BuildStopped as stopped:
        assert stopped.problem.code.startswith("patch-")  # noqa: PT017 - both ends are right
        return
    assert files
    for file in files:
        assert not file.path.startswith("/")
        assert not {"", ".", ".."} & set(file.path.split("/"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("fs/pipe.c", FileKind.SOURCE),
        ("include/linux/fs.h", FileKind.HEADER),
        ("arch/x86/entry/entry_64.S", FileKind.ASSEMBLY),
        ("Makefile", FileKind.BUILD),
        ("fs/Makefile", FileKind.BUILD),
        ("fs/Kconfig", FileKind.BUILD),
        ("fs/Kconfig.binfmt", FileKind.BUILD),
        ("samples/Kbuild", FileKind.BUILD),
        ("scripts/mod/modpost.c", FileKind.BUILD),
        ("tools/objtool/check.c", FileKind.BUILD),
        ("usr/gen_init_cpio.c", FileKind.BUILD),
        ("certs/extract-cert.c", FileKind.BUILD),
        ("arch/x86/tools/relocs.c", FileKind.BUILD),
        ("arch/x86/boot/tools/build.c", FileKind.BUILD),
        ("include/linux/export-internal.h", FileKind.BUILD),
        ("certs/system_keyring.c", FileKind.SOURCE),
        ("kernel/bounds.c", FileKind.BUILD),
        ("arch/x86/kernel/asm-offsets_64.c", FileKind.BUILD),
        (".gitignore", FileKind.BUILD),
        ("arch/x86/kernel/vmlinux.lds.S", FileKind.BUILD),
        ("arch/x86/entry/syscalls/syscall_64.tbl", FileKind.BUILD),
        ("drivers/x/make.sh", FileKind.BUILD),
        ("Documentation/x.c", FileKind.DOCUMENT),
        ("MAINTAINERS", FileKind.DOCUMENT),
        ("drivers/net/README", FileKind.DOCUMENT),
        ("net/notes.rst", FileKind.DOCUMENT),
        ("crypto/x509.asn1", FileKind.OTHER),
        ("rust/kernel/lib.rs", FileKind.OTHER),
    ],
)
def test_the_kind_of_a_file_follows_from_its_place_and_name(path: str, kind: FileKind) -> None:
    assert kind_of(path) is kind


def test_a_series_of_too_many_files_is_refused() -> None:
    def series(count: int) -> PatchSeries:
        text = "".join(f"--- /dev/null\n+++ b/fs/new{number}.c\n@@ -0,0 +1 @@\n+int a;\n" for number in range(count))
        return PatchSeries((SourcePatch("many.patch", text.encode()),))

    assert len(read_series(series(4096))) == 4096
    with pytest.raises(BuildStopped, match="more than 4096 files"):
        read_series(series(4097))
