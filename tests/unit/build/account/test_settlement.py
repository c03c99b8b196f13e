# SPDX-License-Identifier: GPL-2.0-or-later
"""A difference that the livepatch does not carry is explained by a named rule, or it stops the build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from compiled import SIZES, accounted, compiled, needs_gcc

from elivepatch.build.account import settlement
from elivepatch.build.account.account import take_account
from elivepatch.build.account.settlement import Carried, settle, settle_functions
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.codes import RULES
from elivepatch.model.errors import BuildStopped, Problem

pytestmark = needs_gcc

NOTHING = Carried(None, frozenset())
GET = "int level = 3;\nint get(void) { return level; }\n"
USE = "extern int look(const void *);\n"


def stopped(place: Path, before: str, after: str, carried: Carried = NOTHING) -> Problem:
    with pytest.raises(BuildStopped) as caught:
        settle(accounted(place, before, after), source="fs/some.c", carried=carried)
    return caught.value.problem


def in_section(name: str, section: str, value: int = 1) -> str:
    return f'static int {name} __attribute__((used, section("{section}"))) = {value};\n'


LOST = {
    "a function that the diff object lacks": (
        GET, GET.replace("level;", "level + 1;"), "lost-change",
        "The change of get in fs/some.c would be lost: other bytes.",
    ),
    "a variable's initial value": (
        GET, GET.replace("3", "300"), "lost-change",
        "fs/some.c changes level from 3 to 300, and the livepatch would not carry that.",
    ),
    "a new entry of a table that the kernel walks": (
        GET, GET + in_section("entry", "__param"), "lost-change",
        "fs/some.c adds entry to the section __param, and the livepatch would not carry that.",
    ),
    "an entry that goes from such a table": (
        GET + in_section("entry", "__param"), GET, "lost-change",
        "fs/some.c removes entry from the section __param, and the kernel keeps it.",
    ),
    "new data for the start": (
        GET, GET + in_section("early", ".init.data"), "init-code",
        "fs/some.c adds what only runs at start-up or at the end: early.",
    ),
    "a function of the start that goes": (
        GET + 'void __attribute__((section(".init.text"))) start(void) { level = 4; }\n', GET, "init-code",
        "fs/some.c removes what only runs at start-up or at the end: start.",
    ),
    "a section without names": (
        GET, GET + 'asm(".pushsection .initcall6.init, \\"a\\"; .long get - .; .popsection");\n', "init-code",
        "fs/some.c changes what only runs at start-up or at the end: .initcall6.init.",
    ),
    "an export": (
        GET, GET + 'asm(".pushsection ___ksymtab+get, \\"a\\"; .long get - .; .popsection");\n', "new-export",
        "fs/some.c changes what is exported.",
    ),
    "parameters of a rate limit": (
        USE + "void f(void) { static struct { long a, b; } _rs = { 5, 10 }; look(&_rs); }\n",
        USE + "void f(void) { static struct { long a, b; } _rs = { 5, 90 }; look(&_rs); }\n", "data-change",
        "fs/some.c changes the initial value of _rs in f from 10 to 90 at offset 8; the live one keeps its value.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOST)
def test_what_would_be_lost_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    before, after, code, message = LOST[kind]
    found = stopped(tmp_path, before, after)
    assert (found.code, found.message) == (code, message)


def test_a_change_that_the_diff_object_has_is_settled(tmp_path: Path) -> None:
    after = GET.replace("level;", "level + 1;")
    carried = Carried(ElfFile(compiled(tmp_path / "diff.o", after)), frozenset({"get"}))
    assert settle(accounted(tmp_path, GET, after), source="fs/some.c", carried=carried) == ()


def test_a_function_in_the_diff_object_that_nothing_redirects_is_lost(tmp_path: Path) -> None:
    after = GET.replace("level;", "level + 1;")
    carried = Carried(ElfFile(compiled(tmp_path / "diff.o", after)), frozenset())
    assert stopped(tmp_path, GET, after, carried).code == "lost-change"


def test_a_string_that_the_diff_object_lacks_is_noticed(tmp_path: Path) -> None:
    before = USE + 'int f(void) { return look("old"); }\n'
    carried = Carried(ElfFile(compiled(tmp_path / "diff.o", before)), frozenset({"f"}))
    found = stopped(tmp_path, before, before.replace("old", "new"), carried)
    assert found.message.startswith("The livepatch lacks .rodata.")
    assert found.message.endswith(" of fs/some.c, which f uses.")


def test_a_table_that_other_code_keeps_using_is_refused(tmp_path: Path) -> None:
    table = "static const int table[] = { 1, 2, 3 };\nstatic const int *entry __attribute__((used)) = table;\n"
    before = table + "int f(int x) { return table[x]; }\n"
    after = before.replace("2, 3", "2, 4").replace("table[x]", "table[x] + 1")
    carried = Carried(ElfFile(compiled(tmp_path / "diff.o", after)), frozenset({"f"}))
    one, other = compiled(tmp_path / "one.o", before), compiled(tmp_path / "other.o", after)
    account = take_account(one, other, SIZES)
    carried = Carried(ElfFile(compiled(tmp_path / "diff.o", after.replace("entry", "later"))), frozenset({"f"}))
    with pytest.raises(BuildStopped) as caught:
        settle(account, source="fs/some.c", carried=carried)
    assert caught.value.problem.message == "fs/some.c changes table, and entry would go on with the old content."


def test_what_the_series_leaves_out_itself_is_explained(tmp_path: Path) -> None:
    account = accounted(tmp_path, GET, GET.replace("level;", "level + 1;"))
    (one,) = settle(account, source="fs/some.c", carried=NOTHING, ignored=["get"])
    assert (one.rule, one.what) == ("ignored", "get")


def test_the_unlikely_part_of_a_function_that_is_left_out_is_left_out_too(tmp_path: Path) -> None:
    text = """
extern int say(const char *, ...) __attribute__((cold));
int check(int *x)
{
	if (__builtin_expect(*x > 7, 0)) {
		say("old %d", *x);
		*x = 5;
		say("again");
	}
	return *x;
}
"""
    account = accounted(tmp_path, text, text.replace("old %d", "new %d"), "-freorder-blocks-and-partition")
    assert len(account.replaced) == 2
    assert settle(account, source="fs/some.c", carried=NOTHING, ignored=["check"])


def test_every_rule_is_in_the_catalogue_and_every_one_there_is_used() -> None:
    text = Path(settlement.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'self\._rule\("([a-z-]+)"', text)) == RULES.keys()


EXPLAINED = {
    "line-number": (
        'extern void __might_sleep(const char *, int);\nvoid f(void) { __might_sleep("f", 7); }\n', '"f", 7', '"f", 8',
        "f",
    ),
    "removed": (GET + "int gone(void) { return 1; }\n", "int gone(void) { return 1; }\n", "", "gone"),
    "unused": (GET, "int get", "int fresh(void) { return 2; }\nint get", "fresh"),
    "not-loaded": (GET + in_section("text", ".modinfo"), "= 1", "= 2", ".modinfo"),
}  # fmt: skip


@pytest.mark.parametrize("rule", EXPLAINED)
def test_a_difference_without_effect_is_explained_by_its_rule(tmp_path: Path, rule: str) -> None:
    text, old, new, what = EXPLAINED[rule]
    explained = settle(accounted(tmp_path, text, text.replace(old, new)), source="fs/some.c", carried=NOTHING)
    assert (rule, what) in {(one.rule, one.what) for one in explained}


TABLE = """
const char *name(int kind)
{
	switch (kind) { case 0: return "one"; case 1: return "two"; case 2: return "three"; case 3: return "four"; }
	return "none";
}
extern int printk(const char *, ...) __attribute__((cold));
int check(int *x)
{
	if (*x > 7) {
		printk("stopped at %d", *x);
		*x = 5;
	}
	return *x;
}
"""


def test_another_tools_livepatch_must_replace_each_function_that_differs(tmp_path: Path) -> None:
    """klp-build 7.2 does not compare the table of a `switch`."""
    account = accounted(tmp_path, TABLE, TABLE.replace('"two"', '"zwei"'))
    with pytest.raises(BuildStopped) as caught:
        settle_functions(account, source="a.c", replaced=["other"])
    assert caught.value.problem.code == "lost-change"
    assert "The change of name in a.c would be lost" in caught.value.problem.message
    settle_functions(account, source="a.c", replaced=["name"])


def test_an_unlikely_part_is_replaced_with_its_function(tmp_path: Path) -> None:
    account = accounted(tmp_path, TABLE, TABLE.replace("stopped at", "stopped by"), "-freorder-blocks-and-partition")
    assert {key[0] for key in account.replaced} == {"check", "check.cold"}
    settle_functions(account, source="a.c", replaced=["check"])


def test_another_tools_livepatch_cannot_change_a_live_static_of_a_macro(tmp_path: Path) -> None:
    limited = "struct s { int a, b; };\nextern int f(struct s *);\n"
    limited += "int g(void) { static struct s _rs = { 1, 2 }; return f(&_rs); }\n"
    account = accounted(tmp_path, limited, limited.replace("{ 1, 2 }", "{ 1, 3 }"))
    with pytest.raises(BuildStopped) as caught:
        settle_functions(account, source="a.c", replaced=[])
    assert caught.value.problem.code == "data-change"
