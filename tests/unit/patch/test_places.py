# SPDX-License-Identifier: GPL-2.0-or-later
"""A hunk's place is the one that patch(1) takes, and each line keeps its number in the kernel's source."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

import pytest
from edits import series_of
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.model.errors import BuildStopped
from elivepatch.patch import places
from elivepatch.patch.places import PlacedFile, follow
from elivepatch.process import run

LINES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=14)


def diff(old: str, new: str, *, context: int = 3, path: str = "fs/box.c") -> str:
    pairs = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}", n=context)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in pairs)


def placed(source: str, *patches: str) -> list[PlacedFile]:
    return list(follow(series_of(*patches), lambda _path: source))


def text_of(file: PlacedFile) -> str:
    return "".join(file.result[0])


def patched(source: str, patch: str) -> str | None:
    """Return the text that patch(1) makes of a source, None if the patch does not apply."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "fs").mkdir()
        file = Path(directory) / "fs/box.c"
        file.write_text(source)
        (Path(directory) / "patch").write_text(patch)
        options = ["--batch", "--forward", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "--reject-file=-"]
        done = run(["patch", *options, "--input=patch"], cwd=Path(directory))
        return (file.read_text() if file.exists() else "") if done.ok else None


@settings(max_examples=150, deadline=None)
@given(old=LINES, new=LINES, source=LINES, context=st.integers(1, 3), ended=st.booleans())
def test_hunks_land_where_patch_puts_them(
    old: list[str], new: list[str], source: list[str], context: int, ended: bool
) -> None:
    patch = diff("\n".join(old) + "\n", "\n".join(new) + "\n", context=context)
    if not patch:
        return
    text = "\n".join([*source, *old, *source]) + ("\n" if ended else "")
    theirs = patched(text, patch)
    (ours,) = placed(text, patch)
    if theirs is not None:
        assert text_of(ours) == theirs
        assert all(not hunk.fits or hunk.at in hunk.fits for hunk in ours.hunks)


@settings(max_examples=60, deadline=None)
@given(old=LINES, first=LINES, second=LINES)
def test_a_series_is_followed_and_old_lines_keep_their_numbers(
    old: list[str], first: list[str], second: list[str]
) -> None:
    texts = ["\n".join(lines) + "\n" for lines in (old, first, second)]
    patches = [diff(texts[0], texts[1]), diff(texts[1], texts[2])]
    if not all(patches):
        return
    files = placed(texts[0], *patches)
    assert text_of(files[-1]) == texts[2]
    numbers = [number for number in files[-1].result[1] if number]
    assert numbers == sorted(set(numbers))
    assert all(old[number - 1] == text.rstrip("\n") for text, number in zip(*files[-1].result, strict=True) if number)


SAME = "x\na\nb\nc\ny\na\nb\nc\nz\n"


def test_all_places_are_found() -> None:
    (file,) = placed(SAME, "--- a/f\n+++ b/f\n@@ -6,2 +6,3 @@\n a\n+new\n b\n")
    (hunk,) = file.hunks
    assert (hunk.at, hunk.expected, hunk.fits) == (6, 6, (2, 6))


def test_hunks_in_order_leave_each_other_one_place() -> None:
    first, second = "@@ -2,3 +2,2 @@\n a\n-b\n c\n", "@@ -6,3 +5,2 @@\n a\n-b\n c\n"
    (file,) = placed(SAME, f"--- a/f\n+++ b/f\n{first}{second}")
    assert [hunk.fits for hunk in file.hunks] == [(2,), (6,)]


def test_a_hunk_that_fits_nowhere_is_told() -> None:
    (file,) = placed("a\n", "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n a\n+b\n c\n")
    assert file.unplaced is not None
    assert file.hunks == []


def test_files_appear_and_vanish() -> None:
    new = "--- /dev/null\n+++ b/f\n@@ -0,0 +1,2 @@\n+a\n+b\n"
    more = "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n a\n+c\n b\n"
    gone = "--- a/f\n+++ /dev/null\n@@ -1,3 +0,0 @@\n-a\n-c\n-b\n"
    assert [text_of(file) for file in placed("", new, more, gone)] == ["a\nb\n", "a\nc\nb\n", ""]


def test_a_renamed_file_is_followed() -> None:
    rename = (
        "diff --git a/f b/g\nsimilarity index 50%\nrename from f\nrename to g\n--- a/f\n+++ b/g\n"
        "@@ -1,2 +1,3 @@\n a\n+c\n b\n"
    )
    series = series_of(rename, "--- a/g\n+++ b/g\n@@ -1,3 +1,2 @@\n-a\n c\n b\n")
    files = list(follow(series, lambda path: "a\nb\n" if path == "f" else None))
    assert [(file.path, text_of(file)) for file in files] == [("g", "a\nc\nb\n"), ("g", "c\nb\n")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_of_mail_do_not_matter(end: str) -> None:
    patch = "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n a\n+c\n b\n".replace("\n", end)
    assert text_of(placed("a\nb\n", patch)[0]) == "a\nc\nb\n"


def test_bytes_of_other_encodings_are_kept() -> None:
    source = "a\n\xc3\xa9\n\xe9\n"  # The bytes of an e with an accent, in UTF-8 and in Latin-1.
    (file,) = placed(source, "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n a\n+c\n \u00e9\n")
    assert text_of(file) == "a\nc\n\xc3\xa9\n\xe9\n"


def test_too_much_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_WORK_LIMIT", 1000)
    with pytest.raises(BuildStopped) as caught:
        placed("a\n" * 400, "--- a/f\n+++ b/f\n@@ -1,3 +1,4 @@\n a\n a\n+c\n a\n")
    assert caught.value.problem.code == "patch-too-large"
