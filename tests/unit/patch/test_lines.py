# SPDX-License-Identifier: GPL-2.0-or-later
"""Unchanged code keeps its line numbers, as the compiler's own preprocessor sees them."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.patch.lines import Change, preserve, read_changes
from elivepatch.process import run


def unified(old: str, new: str) -> str:
    """Return the output of `diff -U0`; only a newline ends a line."""
    before, after = ([f"{line}\n" for line in text.split("\n")[:-1]] for text in (old, new))
    return "".join(difflib.unified_diff(before, after, n=0))


def kept(old: str, new: str) -> str:
    return preserve(new, read_changes(unified(old, new)))


def test_changes_are_read_from_a_diff_without_context() -> None:
    diff = "--- a\n+++ b\n@@ -3 +3 @@\n-x\n+y\n@@ -5,0 +6,2 @@\n+a\n+b\n@@ -9,2 +11,0 @@\n-c\n-d\n"
    assert read_changes(diff) == [Change(3, 1, 3, 1), Change(6, 0, 6, 2), Change(9, 2, 12, 0)]


def test_a_line_of_code_that_looks_like_a_hunk_is_no_change() -> None:
    assert read_changes("@@ -1 +1 @@\n-a\n+\x0c@@ -9 +9 @@\n") == [Change(1, 1, 1, 1)]


def test_code_behind_added_lines_gets_its_old_number() -> None:
    assert kept("a;\nb;\nc;\n", "a;\nnew;\nb;\nc;\n") == "a;\nnew;\n#line 2\nb;\nc;\n"


def test_code_behind_removed_lines_gets_its_old_number() -> None:
    assert kept("a;\nb;\nc;\n", "a;\nc;\n") == "a;\n#line 3\nc;\n"


def test_a_line_replaced_by_another_needs_no_directive() -> None:
    assert kept("a;\nb;\nc;\n", "a;\nB;\nc;\n") == "a;\nB;\nc;\n"


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("/* one\ntwo */\nb;\n", "/* zero\none\ntwo */\nb;\n", "/* zero\none\ntwo */\n#line 3\nb;\n"),
        ("#define A \\\n  1\nb;\n", "#define A \\\n  0 + \\\n  1\nb;\n", "#define A \\\n  0 + \\\n  1\n#line 3\nb;\n"),
        ("call(a,\n  b);\nc;\n", "call(a,\n  x,\n  b);\nc;\n", "call(a,\n  x,\n  b);\n#line 3\nc;\n"),
    ],
    ids=["comment", "continued line", "arguments"],
)
def test_a_directive_waits_for_the_end_of(old: str, new: str, wanted: str) -> None:
    assert kept(old, new) == wanted


@pytest.mark.parametrize("line", ['puts("(");', "x = '(';", 'puts("\\"(");', "// (", "/* ( */", 'puts("/*");'])
def test_parentheses_in_strings_and_comments_do_not_count(line: str) -> None:
    assert kept(f"{line}\nb;\n", f"new;\n{line}\nb;\n") == f"new;\n#line 1\n{line}\nb;\n"


def test_what_a_conditional_left_open_ends_at_the_next_function() -> None:
    old = "#if A\nif (a &&\n#else\nif (\n#endif\n b)\n  c;\n}\nint f(void)\n{\nd;\n}\n"
    assert "}\n#line 9\nint f(void)\n{\nd;\n" in kept(old, "new;\n" + old)


@pytest.mark.parametrize("odd", ["\x0c", "\x0b", "\x85", "\x1c", "\r"], ids=repr)
def test_only_a_newline_ends_a_line(odd: str) -> None:
    # Å is 0xc3 0x85, which Latin-1 calls a line end of its own; drivers/scsi/st.c has form feeds.
    assert kept(f"/*{odd}*/\nb;\n", f"/*{odd}*/\nnew;\nb;\n") == f"/*{odd}*/\nnew;\n#line 2\nb;\n"


def test_a_text_without_a_last_newline_stays_so() -> None:
    assert preserve("a;\nb;", []) == "a;\nb;"


def test_unchanged_text_is_left_alone() -> None:
    text = "a;\n\n/* b */\n#define C \\\n 1\n"
    assert preserve(text, []) == text


def test_lines_added_to_a_part_that_is_skipped_shift_nothing_behind_it() -> None:
    old = "#ifdef NOT_SET\na;\nb;\n#endif\nc;\n"
    new = "#ifdef NOT_SET\na;\nnew;\nb;\n#endif\nc;\n"
    assert kept(old, new) == "#ifdef NOT_SET\na;\nnew;\n#line 3\nb;\n#endif\n#line 5\nc;\n"


statements = st.sampled_from(
    ["mark({n});", "int v{n};", "/* one line {n} */", "/* open\n still {n}\n close */", "call(mark({n}),\n\tother);",
     "#define D{n} 1 + \\\n\t2", 'puts("( {n} /*");', "", "// mark", "do {{ mark({n}); }} while (0);",
     "#if 0\nmark({n});\n#endif", "#ifdef A\nint w;\n#else\nmark({n});\n#endif", "char c{n} = '(';"]
)  # fmt: skip


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, str]:
    """An old text and a new one that adds, drops and replaces statements of it."""
    old, new = [], []
    for number in range(draw(st.integers(2, 12))):
        statement = draw(statements).format(n=number)
        fate = draw(st.sampled_from(["keep", "keep", "keep", "drop", "add", "replace"]))
        old.append(statement)
        if fate in {"add", "replace"}:
            new.append(draw(statements).format(n=number + 100))
        if fate in {"keep", "add"}:
            new.append(statement)
    return "".join(f"{line}\n" for line in old), "".join(f"{line}\n" for line in new)


def marks(text: str, directory: Path) -> dict[str, int]:
    """Return the line of each mark() in the text, as gcc's preprocessor counts."""
    source = directory / "marked.c"
    source.write_text(text)
    printed = run(["gcc", "-E", "-P", "-Dmark(n)=at(n,__LINE__)", source]).check("Preprocessing").text
    return {number: int(line) for number, line in re.findall(r"at\((\d+),(\d+)\)", printed)}


def unchanged_lines(old: str, new: str) -> set[str]:
    """The lines of `new` that the diff leaves alone; each mark stands on one line only."""
    lines = new.split("\n")
    for change in read_changes(unified(old, new)):
        lines[change.new_start - 1 : change.new_start - 1 + change.new_count] = [""] * change.new_count
    return set(lines)


@settings(max_examples=40, deadline=None)
@given(edits())
def test_gcc_sees_every_unchanged_statement_where_it_was(
    tmp_path_factory: pytest.TempPathFactory, edit: tuple[str, str]
) -> None:
    old, new = edit
    before = marks(old, tmp_path_factory.getbasetemp())
    after = marks(kept(old, new), tmp_path_factory.getbasetemp())
    unchanged = unchanged_lines(old, new)
    for number, line in after.items():
        if any(f"mark({number})" in text for text in unchanged):
            assert line == before[number]
