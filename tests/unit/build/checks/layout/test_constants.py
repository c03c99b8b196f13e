# SPDX-License-Identifier: GPL-2.0-or-later
"""A macro that stands for another number leads to a note: memory may hold the old one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.checks.layout.constants import constant_notes, number_of, redefined
from elivepatch.patch.parse import TouchedFile, kind_of


def changed(old: str, new: str) -> list[tuple[str, str, str]]:
    return [(one.name, one.old, one.new) for one in redefined("demo.h", old, new)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("0x10UL", 16),
        ("010", 8),
        ("(-1)", -1),
        ("(1 << 4)", 16),
        ("(1U << 31)", 1 << 31),
        ("BIT(5)", 32),
        ("(BIT_ULL(3) | 1)", 9),
        ("(2 * 1024)	/* in KiB */", 2048),
        ("~0x1", -2),
        ("OTHER", None),
        ("(HZ * 5)", None),
        ("sizeof(int)", None),
        ('"3"', None),
        ("", None),
        ("1 << 900", None),
        ("2 ** 99", None),
        ("(((((", None),
    ],
)
def test_numbers_are_read_as_the_compiler_reads_them(text: str, number: int | None) -> None:
    assert number_of(text) == number


def test_another_number_is_told_with_both() -> None:
    assert changed("#define LIMIT 3\n", "#define LIMIT 4\n") == [("LIMIT", "3", "4")]
    assert changed("# define FLAG (1 << 3) /* old */\n", "#define FLAG BIT(4)\n") == [("FLAG", "(1 << 3)", "BIT(4)")]


def test_another_spelling_of_the_same_number_is_not_told() -> None:
    assert changed("#define FLAG (1 << 3)\n", "#define FLAG 0x8 /* bit 3 */\n") == []


def test_a_macro_that_came_or_went_is_not_told() -> None:
    assert changed("#define OLD 3\n", "#define NEW 3\n") == []


def test_a_macro_that_gets_a_second_definition_is_not_told() -> None:
    assert changed("#define LIMIT 3\n", "#ifdef SMALL\n#define LIMIT 1\n#else\n#define LIMIT 3\n#endif\n") == []


def test_a_macro_with_parameters_is_no_number() -> None:
    assert changed("#define TWICE(x) 2\n", "#define TWICE(x) 3\n") == []


def test_the_note_names_file_macro_and_numbers(tmp_path: Path) -> None:
    for layer, number in (("tree", 1), ("layer", 2)):
        (tmp_path / layer).mkdir()
        (tmp_path / layer / "demo.h").write_text(f"#define STATE_BUSY {number}\n")
        (tmp_path / layer / "demo.rst").write_text(f"#define STATE_IDLE {number}\n")
    touched = [
        TouchedFile(path=name, kind=kind_of(name), added=False, removed=False) for name in ("demo.h", "demo.rst")
    ]
    (note,) = constant_notes(touched, tree=tmp_path / "tree", layer=tmp_path / "layer")
    assert note.code == "constant"
    assert "demo.h changes STATE_BUSY from 1 to 2." in note.message


@given(st.text(alphabet=st.sampled_from("#define AB_19 0x()<-|~*/\\\n\"'UL"), max_size=200))
def test_any_text_is_read(text: str) -> None:
    number_of(text)
    assert changed(text, text) == []
