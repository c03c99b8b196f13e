# SPDX-License-Identifier: GPL-2.0-or-later
"""A message about a series comes with the lines that it is about."""

from __future__ import annotations

import difflib

from edits import series_of

from elivepatch.patch.c_source import Definition, read_definitions
from elivepatch.patch.locate import ChangedLine, changed_lines, lines_about
from elivepatch.patch.places import follow

SOURCE = """\
int limit = 1;

int get(int size)
{
	int a = size;

	return a;
}

int put(void)
{
	return 2;
}
"""
PATCHED = SOURCE.replace("limit = 1", "limit = 2").replace("	return a;", "	a++;\n	return a + box_more();")
PATCH = "".join(difflib.unified_diff(SOURCE.splitlines(True), PATCHED.splitlines(True), "a/fs/box.c", "b/fs/box.c"))


def definitions(path: str) -> tuple[Definition, ...]:
    return read_definitions(SOURCE) if path == "fs/box.c" else ()


def changed(patch: str, source: str = SOURCE) -> list[ChangedLine]:
    return list(changed_lines(follow(series_of(patch), lambda _path: source), definitions))


def about(message: str) -> list[str]:
    return lines_about(changed(PATCH), message, definitions)


def test_changed_lines_know_their_number_and_what_they_are_in() -> None:
    found = [(line.number, line.sign, line.inside and line.inside.name) for line in changed(PATCH)]
    assert found == [(1, "-", "limit"), (1, "+", None), (7, "-", "get"), (7, "+", "get"), (8, "+", "get")]


def test_the_lines_of_a_named_function_are_shown() -> None:
    assert about("fs/box.c changes get.") == [
        "fs/box.c:7: -	return a;",
        "fs/box.c:7: +	a++;",
        "fs/box.c:8: +	return a + box_more();",
    ]


def test_lines_that_name_a_symbol_are_shown() -> None:
    assert about("It uses box_more.") == ["fs/box.c:8: +	return a + box_more();"]


def test_a_word_that_happens_to_be_a_variable_is_none() -> None:
    assert about("It changes the size of a thing.") == []


def test_many_lines_are_counted() -> None:
    lines = "".join(f"+int box_{number};\n" for number in range(20))
    text = f"--- a/fs/box.c\n+++ b/fs/box.c\n@@ -1,1 +1,21 @@\n int limit = 1;\n{lines}"
    found = lines_about(changed(text), " ".join(f"box_{number}" for number in range(20)), definitions)
    assert len(found) == 9
    assert found[-1] == "and 12 more"
