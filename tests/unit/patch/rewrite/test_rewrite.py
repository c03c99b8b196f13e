# SPDX-License-Identifier: GPL-2.0-or-later
"""A rewrite takes one reason away why a series cannot be a livepatch, says what it did, refuses what it cannot know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.codes import problem
from elivepatch.patch.initialiser import read_members
from elivepatch.patch.rewrite.calls import plain_static_calls, plain_static_keys, renamed_function
from elivepatch.patch.rewrite.data import exports_as_they_are, kept_static_local, plain_variables
from elivepatch.patch.rewrite.edits import Rewritten, Rule, Source, Unsafe, write_patch
from elivepatch.patch.rewrite.init import dropped_init
from elivepatch.patch.rewrite.tables import written_tables

PATH = "fs/box.c"
OLD = """\
#include <linux/fs.h>
#include "box.h"

static struct workqueue_struct *box_queue;
static int box_limit = 3;

static inline int box_small(struct box *b)
{
	return b->a;
}

static int box_count(struct box *b)
{
	static int seen;

	if (static_branch_unlikely(&box_key))
		return box_small(b);
	seen |= b->a;
	return static_call(box_call)(b) + seen;
}
EXPORT_SYMBOL_GPL(box_count);

static int box_peek(struct box *b)
{
	return box_count(b);
}

static struct box_ops ops __read_mostly = {
	.count = box_count,
	.peek = box_peek,
};

static void box_raise(void)
{
	box_limit++;
}

static int __init box_init(void)
{
	return register_box(&ops);
}
"""


def rewritten(rule: Rule, code: str, message: str, *edits: tuple[str, str]) -> Rewritten | Unsafe | None:
    new = OLD
    for old, text in edits:
        assert new.count(old) == 1, old
        new = new.replace(old, text)
    return rule(problem(code, message), {PATH: Source(path=PATH, old=OLD, new=new)})


def text_of(answer: Rewritten | Unsafe | None) -> str:
    assert isinstance(answer, Rewritten), answer
    assert answer.steps
    assert all(step.path == PATH and step.what and step.why for step in answer.steps)
    return answer.sources[PATH].new


def reason_of(answer: Rewritten | Unsafe | None) -> str:
    assert isinstance(answer, Unsafe), answer
    return answer.reason


COUNT_MORE = ("	seen |= b->a;\n", "	seen |= b->a + 1;\n")


def test_a_new_variable_loses_the_attribute_that_places_it() -> None:
    answer = rewritten(
        plain_variables, "new-data", "x",
        ("static int box_limit = 3;", "static int box_limit = 3;\nstatic int m __read_mostly;"),
    )  # fmt: skip
    assert "static int m;\n" in text_of(answer)
    assert "ops __read_mostly" in text_of(answer)


def test_an_old_variable_keeps_the_attributes_that_it_has() -> None:
    answer = rewritten(
        plain_variables, "section-change", "x",
        ("static int box_limit = 3;", "static int box_limit __ro_after_init = 3;"),
        COUNT_MORE,
    )  # fmt: skip
    assert "static int box_limit = 3;" in text_of(answer)
    assert COUNT_MORE[1] in text_of(answer)


def test_a_new_value_is_not_taken_for_an_attribute() -> None:
    edit = ("static int box_limit = 3;", "static int box_limit __ro_after_init = 4;")
    assert rewritten(plain_variables, "section-change", "x", edit) is None


def test_a_new_export_is_left_out_and_a_lost_one_put_back() -> None:
    more = (
        "static int box_peek(",
        "int box_more(void)\n{\n	return 1;\n}\nEXPORT_SYMBOL(box_more);\n\nstatic int box_peek(",
    )
    text = text_of(rewritten(exports_as_they_are, "new-export", "x", more))
    assert "EXPORT_SYMBOL(box_more)" not in text
    assert "int box_more(void)" in text
    lost = text_of(rewritten(exports_as_they_are, "export", "x", ("EXPORT_SYMBOL_GPL(box_count);\n", ""), COUNT_MORE))
    assert "}\nEXPORT_SYMBOL_GPL(box_count);\n" in lost


def test_the_export_of_a_function_that_is_gone_is_refused() -> None:
    start, end = OLD.index("static int box_count"), OLD.index("static int box_peek")
    answer = rewritten(exports_as_they_are, "export", "x", (OLD[start:end], ""))
    assert "box_count" in reason_of(answer)


@pytest.mark.parametrize("declared", [True, False])
def test_a_static_variable_that_lost_its_use_keeps_one(declared: bool) -> None:
    edits = [("	seen |= b->a;\n", ""), (" + seen;", ";")]
    edits += [] if declared else [("	static int seen;\n\n", "")]
    message = f"box_count in {PATH} no longer uses its static variable seen."
    text = text_of(rewritten(kept_static_local, "static-local", message, *edits))
    assert text.count("static int seen;") == 1
    assert text.index("static int seen;") < text.index("*(const volatile char *)&seen;") < text.index("static_branch")


def test_start_up_code_that_nothing_needs_is_left_out() -> None:
    answer = rewritten(
        dropped_init, "init-code", "x", ("return register_box(&ops);", "return register_box2(NULL);"), COUNT_MORE
    )
    assert isinstance(answer, Unsafe) is False
    assert "return register_box(&ops);" in text_of(answer)
    assert COUNT_MORE[1] in text_of(answer)


@pytest.mark.parametrize(
    ("init", "running"),
    [
        ('	box_queue = alloc_workqueue("box", 0, 0);\n', "	queue_work(box_queue, &b->work);\n"),
        ("	ops.limit = 3;\n", "	b->limit = 4;\n"),
        ("	box_raise();\n", "	b->size = box_limit;\n"),
    ],
    ids=["a variable", "a member", "what a function of the file sets"],
)
def test_start_up_code_that_sets_up_what_new_code_uses_is_never_left_out(init: str, running: str) -> None:
    answer = rewritten(
        dropped_init, "init-code", "x", ("	return register_box(&ops);\n", f"{init}	return register_box(&ops);\n"),
        ("	return box_count(b);\n", f"{running}	return box_count(b);\n"),
    )  # fmt: skip
    assert "goes on running needs the start-up or exit code" in reason_of(answer)


def test_a_new_function_that_only_start_up_code_hands_out_is_needed() -> None:
    answer = rewritten(
        dropped_init, "init-code", "x", ("return register_box(&ops);", "return register_handler(box_handler);"),
        ("static int __init", "static int box_handler(void)\n{\n	return 1;\n}\n\nstatic int __init"),
    )  # fmt: skip
    assert "box_handler" in reason_of(answer)


def test_a_series_of_start_up_code_only_is_refused_as_without_effect() -> None:
    answer = rewritten(dropped_init, "init-code", "x", ("return register_box(&ops);", "return 0;"))
    assert "no effect on a running kernel" in reason_of(answer)


def test_a_function_without_entry_gets_a_name_that_its_callers_use() -> None:
    message = f"box_small in {PATH} is an inline function that the compiler did not inline."
    text = text_of(
        rewritten(renamed_function, "outlined-inline", message, ("	return b->a;\n", "	return b->a + 1;\n"))
    )
    assert "static inline int box_small_livepatch(struct box *b)" in text
    assert "return box_small_livepatch(b);" in text
    assert "box_small(" not in text


def test_a_function_of_a_header_is_not_renamed() -> None:
    message = f"zero_user.constprop.0 in {PATH} is an inline function that the compiler did not inline."
    assert "not defined" in reason_of(rewritten(renamed_function, "outlined-inline", message))


def test_a_system_call_is_defined_by_the_macro_for_it() -> None:
    old = "#include <linux/fs.h>\n\nSYSCALL_DEFINE1(box, int, a)\n{\n	return a;\n}\n"
    source = Source(path=PATH, old=old, new=old.replace("return a", "return a + 1"))
    found = problem("no-function-entry", f"__do_sys_box in {PATH} has no patchable entry.")
    text = text_of(renamed_function(found, {PATH: source}))
    assert '#include <linux/fs.h>\n#include "kpatch-syscall.h"\n' in text
    assert "\nKPATCH_SYSCALL_DEFINE1(box, int, a)\n" in text


@pytest.mark.parametrize(
    "message",
    ["box_count tests the static key box_key.", "The patched code tests box_key, a static key that the series adds."],
)
def test_a_static_key_is_read_as_a_variable(message: str) -> None:
    text = text_of(rewritten(plain_static_keys, "jump-label", message, COUNT_MORE))
    assert "if (unlikely(static_key_enabled(&box_key)))" in text


def test_a_static_key_that_a_header_tests_is_refused() -> None:
    answer = rewritten(plain_static_keys, "jump-label", "box_count tests the static key other_key.", COUNT_MORE)
    assert "header" in reason_of(answer)


def test_a_static_call_goes_through_its_pointer() -> None:
    message = "box_count makes a static call that a module defines."
    text = text_of(rewritten(plain_static_calls, "static-call", message, COUNT_MORE))
    assert "return KPATCH_STATIC_CALL(box_call)(b) + seen;" in text
    assert '#include "box.h"\n#include "kpatch-macros.h"\n' in text


NEW_PEEK = (
    "static struct box_ops ops",
    "static int box_peek2(struct box *b)\n{\n	return box_peek(b) + 1;\n}\n\nstatic struct box_ops ops",
)
TABLE = f"{PATH} changes a table of pointers: ops points at box_peek2 instead of box_peek at offset 8."


def tables(uses: Mapping[str, Sequence[str]] = {}, *more: tuple[str, str]) -> Rewritten | Unsafe | None:
    rule = written_tables(lambda member, tag: uses.get(member, ()) if tag == "box_ops" else ())
    return rewritten(rule, "ops-table", TABLE, NEW_PEEK, ("	.peek = box_peek,\n", "	.peek = box_peek2,\n"), *more)


def test_a_pointer_of_a_table_is_written_by_callbacks_and_the_table_stays() -> None:
    text = text_of(tables())
    assert "	.peek = box_peek,\n" in text
    assert "	WRITE_ONCE(ops.peek, elivepatch_box_peek2);\n" in text
    assert "	WRITE_ONCE(ops.peek, box_peek);\n" in text
    assert "static_assert(offsetof(struct { typeof(ops) table; }, table.peek) == 8);" in text
    assert "static int elivepatch_box_peek2(struct box *b)\n" in text
    assert "	result = box_peek2(b);\n" in text
    assert "elivepatch_write_constant" not in text


def test_a_livepatch_of_new_functions_only_replaces_one_that_the_table_had() -> None:
    assert text_of(tables()).count("elivepatch_anchor") == 1
    assert "elivepatch_anchor" not in text_of(tables({}, COUNT_MORE))


def test_a_constant_table_is_written_through_another_mapping() -> None:
    rule = written_tables(lambda _member, _tag: ())
    old = OLD.replace("static struct box_ops ops __read_mostly", "static const struct box_ops ops")
    new = old.replace("	.peek = box_peek,\n", "").replace(COUNT_MORE[0], COUNT_MORE[1])
    found = problem(
        "ops-table", f"{PATH} changes a table of pointers: ops points at nothing instead of box_peek at offset 8."
    )
    text = text_of(rule(found, {PATH: Source(path=PATH, old=old, new=new)}))
    assert "elivepatch_write_constant((const void *)&ops.peek, (const void *)NULL);" in text
    assert "elivepatch_write_constant((const void *)&ops.peek, (const void *)box_peek);" in text


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        ("fs/x.c:3:	if (ops->peek)", False),
        ("fs/x.c:3:	if (!ops->peek && x)", False),
        ("fs/x.c:3:	return ops->peek(b);", False),
        ("fs/x.c:3:	if (a->ops->peek != NULL) {", False),
        ("fs/x.c:3:	ops->peek = other_ops.peek;", False),
        ("fs/x.c:3:	.peek = mine,", False),
        ("fs/x.c:3:	b->peek = ops->peek;", True),
        ("fs/x.c:3:	b->peek = ops.peek;", True),
        ("fs/x.c:3:	return ops->peek;", True),
        ("fs/x.c:3:	call_later(b, ops->peek);", True),
        ("fs/x.c:3:	peek = ops ? ops->peek : NULL;", True),
    ],
)
def test_a_pointer_that_other_code_keeps_is_refused(line: str, copied: bool) -> None:
    answer = tables({"peek": [line]})
    assert isinstance(answer, Unsafe) is copied
    if copied:
        assert "copies the pointer" in reason_of(answer)


def test_what_the_objects_do_not_confirm_is_refused() -> None:
    assert "not a pointer" in reason_of(
        tables({}, ("	.count = box_count,\n", "	.count = box_count,\n	.limit = 4,\n"))
    )


def test_members_are_read_by_their_paths() -> None:
    text = (
        'static struct x y[] = {\n	{ .a = 1, .b = f(2, "}, {"), .c = { .d = &e, }, },\n'
        "#if Z\n	[4] = { .a = g, },\n#endif\n	{ 7, 8 },\n};\n"
    )
    assert read_members(text) == {
        "[0].a": "1",
        "[0].b": 'f(2, "}, {")',
        "[0].c.d": "&e",
        "[4].a": "g",
        "[2][0]": "7",
        "[2][1]": "8",
    }


@given(st.text("ab.=,{}[]#\n\"' ", max_size=120))
def test_any_text_has_some_members(text: str) -> None:
    assert all(path and value for path, value in read_members(text).items())


def test_a_proposal_says_what_was_done_before_the_diff() -> None:
    answer = rewritten(plain_static_calls, "static-call", "box_count makes a static call that a module defines.")
    assert isinstance(answer, Rewritten)
    patch = write_patch(answer.sources, answer.steps)
    comment, _, diff = patch.partition("--- a/fs/box.c\n")
    assert comment.startswith("# This is a proposal of elivepatch check --rewrite.")
    assert all(line.startswith("#") for line in comment.splitlines())
    assert "[static-call]" in comment
    assert "+	return KPATCH_STATIC_CALL(box_call)(b) + seen;\n" in diff
