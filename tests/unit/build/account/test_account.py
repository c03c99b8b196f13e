# SPDX-License-Identifier: GPL-2.0-or-later
"""Every difference of two objects is found, and what only looks different is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiled import accounted, needs_gcc

pytestmark = needs_gcc

SWITCH = """
const char *name(int kind)
{
	switch (kind) {
	case 0: return "one";
	case 1: return "two";
	case 2: return "three";
	case 3: return "four";
	case 4: return "five";
	case 5: return "six";
	}
	return "none";
}
int other(int x) { return x + 1; }
"""
NUMBERS = """
int number(int kind)
{
	switch (kind) { case 0: return 17; case 1: return 4; case 2: return 99; case 3: return 1; case 4: return 62; }
	return 0;
}
"""
COLD = """
extern int printk(const char *, ...) __attribute__((cold));
int check(int *x)
{
	if (__builtin_expect(*x > 7, 0)) {
		printk("stopped at %d", *x);
		*x = 5;
		printk("again");
	}
	return *x;
}
"""
LIMITED = """
struct state { int lock, interval, burst; void *x; };
extern int allowed(struct state *, const char *);
extern void say(const char *);
void warn(void)
{
	static struct state _rs = { .interval = 5000, .burst = 10 };
	if (allowed(&_rs, __func__))
		say("hello");
}
"""
STATICS = """
__attribute__((noipa)) int count(int by)
{
	static int sum = 1;
	return sum += by;
}
__attribute__((noipa)) int table(int at)
{
	static const int values[] = { 3, 1, 4, 1, 5, 9, 2, 6 };
	return values[at];
}
int both(int at) { return count(at) + table(at); }
"""
PRODUCT = 'static int total __attribute__((section(".data..read_mostly"))) = 4;\nint get(void) { return total; }\n'


def names(account: object) -> set[str]:
    return {key[0] for key in account.replaced}  # type: ignore[attr-defined]


CARRIED = {
    "a string in the table of a switch": (SWITCH, '"four"', '"vier"', {"name"}),
    "a number in the table of a switch": (NUMBERS, "99", "98", {"number"}),
    "a case of a switch": (NUMBERS, "case 2: return 99", "case 5: return 99", {"number"}),
    "a string in code": (LIMITED, '"hello"', '"hallo"', {"warn"}),
    "a constant in code": (SWITCH, "x + 1", "x + 2", {"other"}),
    "a text in the unlikely part": (COLD, "stopped at", "stopped by", {"check", "check.cold"}),
    "the other text in the unlikely part": (COLD, "again", "never", {"check", "check.cold"}),
    "a constant in the unlikely part": (COLD, "*x = 5", "*x = 6", {"check", "check.cold"}),
    "the name of the function itself": (LIMITED, "void warn(", "void shout(", set()),
    "a callee": (
        "extern int f(int), g(int);\nint user(int x) { return f(x) + 1; }\n", "return f(x)", "return g(x)",
        {"user"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CARRIED)
def test_a_change_of_what_only_code_uses_changes_the_function(tmp_path: Path, kind: str) -> None:
    text, old, new, expected = CARRIED[kind]
    assert text.count(old) == 1
    account = accounted(tmp_path, text, text.replace(old, new), "-freorder-blocks-and-partition")
    assert names(account) == expected
    assert not account.empty
    assert (account.data, account.states) == ([], [])


KEPT = {
    "the initial value of a static variable": (STATICS, "sum = 1", "sum = 2", "sum.0"),
    "an entry of a static table": (STATICS, "5, 9", "5, 8", "values.1"),
    "a variable in a section with others": (PRODUCT, "= 4", "= 5", "total"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_change_of_data_is_found(tmp_path: Path, kind: str) -> None:
    text, old, new, name = KEPT[kind]
    account = accounted(tmp_path, text, text.replace(old, new))
    assert names(account) == set()
    assert [one.name.partition(".")[0] for one in account.data] == [name.partition(".")[0]]


def test_parameters_of_a_rate_limit_are_found_with_the_function_that_uses_them(tmp_path: Path) -> None:
    account = accounted(tmp_path, LIMITED, LIMITED.replace("5000", "50000"))
    assert [(one.user, one.new.name.partition(".")[0]) for one in account.states] == [("warn", "_rs")]
    assert account.replaced == {}


def test_a_rate_limit_of_a_function_that_changes_anyway_is_part_of_it(tmp_path: Path) -> None:
    account = accounted(tmp_path, LIMITED, LIMITED.replace("5000", "50000").replace("hello", "hallo"))
    assert account.states == []
    assert names(account) == {"warn"}


SAME = {
    "a comment": (SWITCH, "int other", "/* more */ int other"),
    "a new line above": (LIMITED, "void warn", "\n\nvoid warn"),
    "a string that moves others": (SWITCH + LIMITED, "int other(int x) { return x + 1; }",
                                   'int other(int x) { say("before all others"); return x + 1; }'),
    "a static variable of the same name before": (STATICS, " int table(int at)\n{",
                                                  " int table(int at)\n{\n	static int sum = 9; sum += at;"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_what_only_moves_or_gets_another_number_is_the_same(tmp_path: Path, kind: str) -> None:
    text, old, new = SAME[kind]
    assert text.count(old) == 1
    account = accounted(tmp_path, f"extern void say(const char *);\n{text}",
                        f"extern void say(const char *);\n{text.replace(old, new)}")  # fmt: skip
    changed = {"other"} if "say" in new else {"table"} if "sum" in new else set()
    assert names(account) == changed
    assert (account.data, account.states) == ([], [])


def test_a_table_that_a_replaced_function_uses_is_replaced_for_all_its_users(tmp_path: Path) -> None:
    text = "static const int values[] = { 3, 1, 4, 1, 5 };\nint a(int x) { return values[x]; }\n"
    text += "int b(int x) { return values[x] + 1; }\n"
    account = accounted(tmp_path, text, text.replace("4, 1", "4, 2").replace("+ 1", "+ 7"))
    assert names(account) == {"a", "b"}


def test_a_part_that_changes_changes_all_that_call_it(tmp_path: Path) -> None:
    """The kernel cannot redirect foo.part.0 by itself if foo exists beside it."""
    text = """
extern int slow(int);
static int __attribute__((noipa)) body(int x) __asm__("foo.part.0");
static int body(int x) { return slow(x) * 3; }
int foo(int x) { return x ? body(x) : 0; }
int bar(int x) { return x > 2 ? body(x) : 1; }
"""
    assert names(accounted(tmp_path, text, text.replace("* 3", "* 5"))) == {"foo.part", "foo", "bar"}


def test_two_objects_of_one_source_have_no_difference(tmp_path: Path) -> None:
    text = SWITCH + NUMBERS + COLD + STATICS
    account = accounted(tmp_path, text, text)
    assert account.empty
    assert (account.renamed, account.moved, account.removed, account.lines) == ([], [], [], [])


TABLE = """
extern int key_a, key_b;
int hot(int x)
{
	asm goto("1: nop\\n .pushsection %s, \\"aw\\"\\n .long 1b - ., %%l[there] - .\\n %s .popsection" :::: there);
	return x;
there:
	return x + 1;
}
"""
TABLES = {
    "another static key": ("__jump_table", ".quad key_a - .\\n", ".quad key_b - .\\n"),
    "a warning that is given once": ("__bug_table", ".word 5, 1\\n", ".word 5, 3\\n"),
    "another way to handle a fault": ("__ex_table", ".long 1\\n", ".long 3\\n"),
}


def table(section: str, rest: str) -> str:
    text = TABLE % (section, rest)
    return text.replace(", %l[there] - .", "") if section == "__bug_table" else text


@pytest.mark.parametrize("kind", TABLES)
def test_an_entry_of_a_table_about_its_code_belongs_to_the_function(tmp_path: Path, kind: str) -> None:
    section, old, new = TABLES[kind]
    padding = ".long 0\\n" if section == "__bug_table" else ""
    account = accounted(tmp_path, table(section, padding + old), table(section, padding + new))
    assert names(account) == {"hot"}


def test_a_line_number_in_the_table_of_warnings_is_explained(tmp_path: Path) -> None:
    one, other = (table("__bug_table", f".long 0\\n.word {line}, 1\\n") for line in (5, 6))
    account = accounted(tmp_path, one, other)
    assert account.empty
    assert account.lines == ["hot"]


LINE = """
extern void %s(const char *, int);
void wait(void) { %s("file.c", %d); }
"""


@pytest.mark.parametrize(("callee", "changed"), [("__might_sleep", set()), ("__warn_printk", {"wait"})])
def test_a_number_is_a_line_only_for_a_function_that_takes_lines(
    tmp_path: Path, callee: str, changed: set[str]
) -> None:
    account = accounted(tmp_path, LINE % (callee, callee, 70), LINE % (callee, callee, 71))
    assert names(account) == changed
    assert account.lines == ([] if changed else ["wait"])


def test_what_is_new_in_a_section_that_the_kernel_walks_is_found(tmp_path: Path) -> None:
    text = "int level = 3;\nint get(void) { return level; }\n"
    entry = 'static int *const entry __attribute__((used, section("__param"))) = &level;\n'
    account = accounted(tmp_path, text, text + entry)
    assert [one.name for one in account.added] == ["entry"]
