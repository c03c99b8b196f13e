# SPDX-License-Identifier: GPL-2.0-or-later
"""A change is there if its reversal fits as a whole, in the places that the author meant."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.places import follow
from elivepatch.patch.reverse import is_there, reverse

BEFORE = """\
int first(int a)
{
\tprepare(a);
\treturn use(a);
}

int second(int a)
{
\tprepare(a);
\treturn use(a);
}
"""
CHECK = "\tif (a < 0)\n\t\treturn -1;\n"
IN_FIRST = BEFORE.replace("\tprepare(a);\n", CHECK + "\tprepare(a);\n", 1)
IN_SECOND = CHECK.join(BEFORE.rpartition("\tprepare(a);\n")[::2]).replace(CHECK, CHECK + "\tprepare(a);\n")


def diff(old: str, new: str, *, heading: str = "") -> SourcePatch:
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    lines = [
        f"{line.rstrip()} {heading}\n" if heading and line.startswith("@@") else line
        for line in difflib.unified_diff(before, after, "a/lib/box.c", "b/lib/box.c", n=3)
    ]
    return SourcePatch("fix.patch", "".join(lines).encode())


def test_a_whole_change_is_there() -> None:
    fix = diff(BEFORE, IN_FIRST, heading="int first(int a)")
    assert is_there(fix, lambda _: IN_FIRST)
    assert not is_there(fix, lambda _: BEFORE)


def test_the_same_change_of_another_function_is_not_it() -> None:
    fix = diff(BEFORE, IN_FIRST, heading="int first(int a)")
    assert not is_there(fix, lambda _: IN_SECOND)


def test_a_change_of_a_file_that_is_not_there_is_not_there() -> None:
    assert not is_there(diff(BEFORE, IN_FIRST), lambda _: None)


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.sampled_from("abcd"), max_size=30))
def test_a_reversed_patch_takes_the_change_back(old: list[str], new: list[str]) -> None:
    before, after = ("".join(f"{word}\n" for word in words) for words in (old, new))
    if before in {after, ""} or not after:
        return
    (file,) = follow(PatchSeries((reverse(diff(before, after)),)), lambda _: after)
    assert file.unplaced is None
    assert "".join(file.result[0]) == before


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_last_line_without_an_end_stays_one(tmp_path: Path, ending: str) -> None:
    old, new = f"one{ending}", "two\n"
    text = "--- a/lib/box.c\n+++ b/lib/box.c\n@@ -1 +1 @@\n-one\n"
    text += ("" if ending else "\\ No newline at end of file\n") + "+two\n"
    (file,) = follow(PatchSeries((reverse(SourcePatch("fix.patch", text.encode())),)), lambda _: new)
    assert "".join(file.result[0]) == old
