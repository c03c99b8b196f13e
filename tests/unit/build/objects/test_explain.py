# SPDX-License-Identifier: GPL-2.0-or-later
"""Problems that tools find in objects are explained in terms of the source."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from edits import series_of

from elivepatch.build.objects.explain import Explainer
from elivepatch.model.build import Note
from elivepatch.model.codes import problem

SOURCE = """\
static inline int small(int a)
{
	return a;
}

static int middle(int a)
{
	return small(a);
}

static notrace int hidden(int a)
{
	return a;
}

static int plain(int a)
{
	return a + 1;
}

int large(int a)
{
	return middle(a) + hidden(a);
}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/box.c").write_text(SOURCE)
    (tmp_path / "lib/box.h").write_text("struct box;\n")
    return tmp_path


def changing(tree: Path, *replaced: tuple[str, str], path: str = "lib/box.c") -> Explainer:
    old = (tree / path).read_text()
    new = old
    for before, after in replaced:
        assert before in new
        new = new.replace(before, after)
    diff = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}")
    return Explainer(series_of("".join(diff)), tree)


def notes(explainer: Explainer, *functions: str) -> list[Note]:
    return list(explainer.notes({"lib/box.c": frozenset(functions)}))


def test_the_lines_concerned_follow_what_the_tools_said(tree: Path) -> None:
    found = problem("init-code", "lib/box.c changes what only runs at start-up: plain.", excerpt="said")
    told = changing(tree, ("return a + 1", "return a + 2")).explain(found)
    assert (
        told.excerpt == "said\n\nLines concerned:\nlib/box.c:18: -	return a + 1;\nlib/box.c:18: +	return a + 2;"
    )


def test_a_series_that_changes_nothing_but_start_up_code_is_told_so(tree: Path) -> None:
    (tree / "lib/box.c").write_text(SOURCE.replace("static int plain", "static int __init plain"))
    found = problem("init-code", "lib/box.c changes what only runs at start-up: plain.")
    told = changing(tree, ("	return a + 1;", "	/* more */\n\n	return a + 2;")).explain(found)
    assert told.code == "init-only"
    assert "lib/box.c:18: -	return a + 1;" in told.excerpt
    both = changing(tree, ("	return a + 1;", "	return a + 2;"), ("hidden(a);", "hidden(-a);"))
    assert both.explain(found).code == "init-code"


def test_a_problem_that_is_about_no_line_stays_as_it_is(tree: Path) -> None:
    found = problem("no-change", "lib/box.c: plain is the same.")
    assert changing(tree, ("return a + 1", "return a + 2")).explain(found) == found


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("perf_trace_box", "trace-event", "is a function of the trace event box"),
        ("small", "outlined-inline", "inline function that the compiler did not inline"),
        ("from_header.constprop.0", "outlined-inline", "from_header in lib/box.c is an inline function"),
        ("hidden", "no-function-entry", "is marked notrace"),
        ("plain", "no-function-entry", "plain in lib/box.c has no patchable entry."),
        ("__pfx_plain", "section-change", "lib/box.c moves plain to another section."),
    ],
)
def test_why_a_function_has_no_entry_is_told(tree: Path, name: str, code: str, words: str) -> None:
    found = problem("no-function-entry", f"{name} in lib/box.c has no patchable entry.")
    told = changing(tree, ("return a + 1", "return a + 2")).explain(found)
    assert told.code == code
    assert words in told.message


@pytest.mark.parametrize(
    "line",
    ["ccflags-remove-$(CONFIG_FUNCTION_TRACER) += $(CC_FLAGS_FTRACE)", "CFLAGS_REMOVE_box.o = $(CC_FLAGS_FTRACE)"],
)
def test_a_directory_that_is_built_without_entries_is_named(tree: Path, line: str) -> None:
    (tree / "lib/Makefile").write_text(f"obj-y += box.o\n{line}\n")
    found = problem("no-function-entry", "plain in lib/box.c has no patchable entry.")
    told = changing(tree, ("return a + 1", "return a + 2")).explain(found)
    assert told.message == f"plain in lib/box.c has no patchable entry: lib/Makefile builds it without ({line})."


def test_who_a_function_is_inlined_into_is_told_at_any_depth(tree: Path) -> None:
    found = notes(
        changing(tree, ("{\n	return a;\n}\n\nstatic int middle", "{\n	return -a;\n}\n\nstatic int middle")),
        "large",
    )
    assert [(one.code, one.message) for one in found] == [
        ("inlined", "small of lib/box.c is inlined: the functions replaced are large.")
    ]


def test_a_function_that_is_gone_leaves_its_code(tree: Path) -> None:
    plain = SOURCE[SOURCE.index("static int plain") : SOURCE.index("int large")]
    found = notes(changing(tree, (plain, ""), ("hidden(a);", "hidden(-a);")), "large")
    assert [(one.code, "plain" in one.message) for one in found] == [("code-removed", True)]


def test_a_function_that_is_replaced_itself_needs_no_note(tree: Path) -> None:
    assert notes(changing(tree, ("return a + 1", "return a + 2")), "plain") == []


def test_who_includes_a_changed_header_is_told(tree: Path) -> None:
    found = notes(changing(tree, ("struct box;", "struct box;\nstruct bag;"), path="lib/box.h"), "large")
    assert [one.message for one in found] == ["lib/box.h is included by these changed sources: lib/box.c."]


def test_notes_are_about_the_lines_where_a_hunk_is_applied(tree: Path) -> None:
    older = SOURCE.removeprefix(SOURCE[: SOURCE.index("static notrace")])
    new = older.replace("return a + 1", "return a + 2")
    diff = difflib.unified_diff(older.splitlines(True), new.splitlines(True), "a/lib/box.c", "b/lib/box.c")
    moved = Explainer(series_of("".join(diff)), tree)
    # By its own numbers, the hunk would be in middle, which large inlines.
    assert notes(moved, "large") == []
    found = problem("init-code", "lib/box.c changes plain.")
    assert "lib/box.c:18: -	return a + 1;" in moved.explain(found).excerpt


def test_a_new_function_does_not_change_the_one_behind_it(tree: Path) -> None:
    lines = ["static int extra(int a)", "{", "	return 3 * a;", "}", ""]
    added = "".join(f"+{line}\n" for line in lines)
    diff = f"--- a/lib/box.c\n+++ b/lib/box.c\n@@ -4,3 +4,8 @@\n }}\n \n{added} static int middle(int a)\n"
    assert notes(Explainer(series_of(diff), tree), "large") == []
