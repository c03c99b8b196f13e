# SPDX-License-Identifier: GPL-2.0-or-later
"""A static variable inside a function keeps its content, so that its type must stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.checks.layout.statics import check_statics, retyped
from elivepatch.model.build import Note
from elivepatch.model.errors import BuildStopped
from elivepatch.patch.parse import TouchedFile, kind_of

SOURCE = """\
static int first(void)
{
	static struct item *last; /* static long last; */
	static const unsigned int limits[2][4] = { };
	static int count;

	return count++ + !last;
}

int second(void)
{
	static long count = 3;
	return count;
}
"""


def changed(old: str, new: str) -> list[tuple[str, str, str, bool]]:
    assert SOURCE.count(old) == 1
    return [(one.function, one.name, one.new, one.grave) for one in retyped(SOURCE, SOURCE.replace(old, new))]


@pytest.mark.parametrize(
    ("old", "new", "variable"),
    [
        ("struct item *last;", "struct entry *last;", ("first", "last", "struct entry *", True)),
        ("struct item *last;", "unsigned long last;", ("first", "last", "unsigned long", True)),
        ("limits[2][4]", "limits[4][2]", ("first", "limits", "unsigned int [4][2]", True)),
        ("static int count;", "static unsigned int count;", ("first", "count", "unsigned int", False)),
        ("static long count = 3", "static u64 count = 3", ("second", "count", "u64", False)),
    ],
)
def test_another_type_is_found_with_its_function(old: str, new: str, variable: tuple[str, str, str, bool]) -> None:
    assert changed(old, new) == [variable]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("static int count;", "static int __read_mostly count;"),
        ("static int count;", "static int count = 1;"),
        ("static int count;", "static int number;"),
        ("struct item *last;", "struct item  * last;"),
        ("static long last;", "static char last;"),
    ],
)
def test_marks_values_spaces_and_comments_are_no_change(old: str, new: str) -> None:
    assert changed(old, new) == []


@pytest.fixture
def checked(tmp_path: Path) -> object:
    def found(new: str, *, built: bool = True) -> tuple[Note, ...]:
        for layer, text in (("tree", SOURCE), ("layer", new)):
            (tmp_path / layer).mkdir()
            (tmp_path / layer / "demo.c").write_text(text)
        touched = [TouchedFile(path="demo.c", kind=kind_of("demo.c"), added=False, removed=False)]
        return check_statics(touched, tree=tmp_path / "tree", layer=tmp_path / "layer", built=["demo.c"] * built)

    return found


def test_another_number_is_a_note_and_another_object_a_refusal(checked: object) -> None:
    assert callable(checked)
    with pytest.raises(BuildStopped) as caught:
        checked(SOURCE.replace("struct item *last", "struct entry *last"))
    assert caught.value.problem.code == "data-layout"
    assert "The static variable last of first in demo.c has the type `struct entry *`" in caught.value.problem.message


def test_a_note_names_variable_and_function(checked: object) -> None:
    assert callable(checked)
    (note,) = checked(SOURCE.replace("static int count", "static unsigned int count"))
    assert note.code == "type-meaning"
    assert "count of first in demo.c" in note.message


def test_a_source_that_is_not_built_is_left_alone(checked: object) -> None:
    assert callable(checked)
    assert checked(SOURCE.replace("struct item *last", "struct entry *last"), built=False) == ()


@given(st.text(alphabet=st.sampled_from("\tstaic unt*[]=;{}()\n/"), max_size=300))
def test_any_text_is_read(text: str) -> None:
    assert list(retyped(text, text)) == []
    list(retyped(SOURCE, text))
