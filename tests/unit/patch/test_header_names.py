# SPDX-License-Identifier: GPL-2.0-or-later
"""Users of the changed part of a header are found by names, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

import pytest

from elivepatch.patch.header_names import changed_names, pieces, users_of
from elivepatch.patch.rewrite.edits import Source

HEADER = """\
/* What fs.h has. */
#define LIMIT(x) \\
	((x) + 1)

struct file {
	int mode;
};

int elsewhere(int x);

static inline int checked(int x)
{
#ifdef CONFIG_MORE
	return x > 3;
#else
	return x;
#endif
}

static inline int twice(int x)
{
	return checked(x) && checked(x + 1);
}
"""


def source(old: str, new: str) -> Source:
    assert old in HEADER
    return Source(path="include/linux/fs.h", old=HEADER, new=HEADER.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("x > 3", "x > 4", {"checked"}),
        ("	return x > 3;\n", "	int y = x;\n\n	return y > 3;\n", {"checked"}),
        ("((x) + 1)", "((x) + 2)", {"LIMIT"}),
        ("/* What fs.h has. */\n", "/* What fs.h\n * has. */\n", set()),
        ("static inline int twice", "static inline int third(int x)\n{\n}\n\nstatic inline int twice", {"third"}),
        ("static inline int twice(int x)", "static inline int double_it(int x)", {"twice", "double_it"}),
    ],
    ids=["a line", "several lines", "a macro", "a comment", "a new function", "another name"],
)  # fmt: skip
def test_what_changes_inside_functions_and_macros_has_their_names(old: str, new: str, names: set[str]) -> None:
    found: AbstractSet[str] | None = changed_names(source(old, new))
    assert found == names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("	int mode;\n", "	int mode, flags;\n"),
        ("int elsewhere(int x);", "int elsewhere(long x);"),
        ("struct file {", "#ifdef CONFIG_FILE\nstruct file {"),
        ("int elsewhere", "extern int here;\nint elsewhere"),
    ],
    ids=["a type", "a declaration", "a condition", "a variable"],
)
def test_a_change_anywhere_else_has_no_name(old: str, new: str) -> None:
    assert changed_names(source(old, new)) is None


def searched(files: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {path: text for path, text in files.items() if any(name in text for name in names)}


def users(files: Mapping[str, str], *names: str) -> AbstractSet[str] | None:
    return users_of(names, lambda wanted: searched({"include/linux/fs.h": HEADER, **files}, wanted))


def test_sources_that_name_it_are_its_users() -> None:
    files = {"fs/a.c": "int a(void)\n{\n\treturn twice(1);\n}\n", "fs/b.c": "int twice_as_much;\n", "fs/c.S": "twice\n"}
    assert users(files, "twice") == {"fs/a.c", "fs/c.S"}


def test_a_name_in_a_comment_or_a_literal_is_no_use() -> None:
    assert users({"fs/a.c": '/* see twice() */\nchar *a = "twice";\n'}, "twice") == frozenset()


def test_what_is_used_through_functions_and_macros_of_headers_is_followed() -> None:
    files = {
        "include/linux/more.h": "#define MORE(x) twice(x)\n",
        "fs/a.c": "int a = MORE(1);\n",
        "fs/b.c": "int b(void)\n{\n\treturn checked(2);\n}\n",
    }
    assert users(files, "checked") == {"fs/a.c", "fs/b.c"}


@pytest.mark.parametrize(
    "header",
    [
        "struct big {\n\tchar room[LIMIT(3)];\n};\n",
        "#if LIMIT(3) > 3\nint here;\n#endif\n",
        "static const int limit = LIMIT(3);\n",
        "EXPORT_SYMBOL(LIMIT);\n",
    ],
    ids=["in a type", "in a condition", "in a variable", "in the use of a macro"],
)
def test_a_use_in_a_header_outside_of_functions_and_macros_is_everybodys(header: str) -> None:
    assert users({"include/linux/big.h": header, "fs/a.c": "int a = LIMIT(2);\n"}, "LIMIT") is None


def test_declaring_a_function_is_no_use_of_what_is_in_it() -> None:
    files = {"include/linux/more.h": "int checked(int x);\n", "fs/b.c": "int b(void)\n{\n\treturn checked(2);\n}\n"}
    assert users(files, "checked") == {"fs/b.c"}


def test_uses_of_uses_without_end_are_everybodys() -> None:
    chain = "".join(f"#define STEP{n + 1}(x) STEP{n}(x)\n" for n in range(20))
    assert users({"include/linux/chain.h": chain}, "STEP0") is None


def test_a_name_that_a_macro_may_make_is_everybodys() -> None:
    assert users_of({"checked"}, lambda _wanted: None) is None


def test_a_name_that_a_macro_can_glue_is_made_of_its_piece_and_a_word() -> None:
    assert pieces(["is_file_open"], ["is_", "_open", "other", "is_file_open"]) == {"file_open", "is_file"}
