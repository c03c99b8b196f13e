# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables, clones, names and descriptors that the compiler makes beside a function are compared by content."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiled import SIZES, accounted, needs_gcc
from elf_maker import OBJECT, SECTION, Made

from elivepatch.build.account.account import Account, take_account
from elivepatch.build.account.names import plain
from elivepatch.kernel.elf import R_X86_64_32S

pytestmark = needs_gcc

JUMPS = """
extern int a(int), b(int), c(int), d(int), e(int), f(int);
int choose(int x)
{
	switch (x) {
	case 0: return a(x); case 1: return b(x) + 1; case 2: return c(x) * 2;
	case 3: return d(x) - 3; case 4: return e(x) / 4; case 5: return f(x) ^ 5;
	}
	return 0;
}
int before(int x)
{
	switch (x) {
	case 0: return f(x); case 1: return e(x) + 1; case 2: return d(x) * 2;
	case 3: return c(x) - 3; case 4: return b(x) / 4;
	}
	return 7;
}
"""
CLONES = """
extern int g(int, int);
struct pair { long first, second; };
static __attribute__((noinline)) int part(struct pair *p, int how) { return g(p->first, how) + how * 3; }
int one(struct pair *p) { return part(p, 5) + 1; }
int two(struct pair *p) { return part(p, 5) + 2; }
"""
DESCRIBED = """
struct descriptor {
	const char *module, *function, *file, *format;
	unsigned line : 18, class : 6, flags : 8;
	long key;
};
extern void debug(struct descriptor *, const char *);
void work(void)
{
	static struct descriptor message __attribute__((section("__dyndbg"), aligned(8), used)) = {
		"module", __func__, "file.c", "text", %d, 63, %d, 0 };
	debug(&message, "text");
}
"""
INDEX = """
extern void print(const void *);
struct entry { const char *text, *function, *file; unsigned line; const char *level; };
void work(void)
{
	static const struct entry _entry = { "text", "work", "file.c", %d, "%s" };
	print(&_entry);
}
"""


def names(account: Account) -> set[str]:
    return {key[0] for key in account.replaced}


def quiet(account: Account) -> bool:
    return (account.data, account.states) == ([], [])


def test_another_order_in_a_jump_table_changes_its_function(tmp_path: Path) -> None:
    swapped = JUMPS.replace("case 1: return b(x) + 1", "case 2: return b(x) + 1", 1)
    swapped = swapped.replace("case 2: return c(x) * 2", "case 1: return c(x) * 2", 1)
    account = accounted(tmp_path, JUMPS, swapped, "-fjump-tables", "-fno-reorder-blocks")
    assert "choose" in names(account)
    assert "before" not in names(account)
    assert quiet(account)


def test_a_jump_table_that_moves_is_the_same(tmp_path: Path) -> None:
    longer = JUMPS.replace("	return 0;", "	if (x == 6) return a(7);\n	return 0;").replace(
        "f(x) ^ 5;", "f(x) ^ 5; case 6: return a(8); case 7: return b(9);"
    )
    account = accounted(tmp_path, JUMPS, longer, "-fjump-tables")
    assert names(account) - {"choose.cold"} == {"choose"}


@pytest.mark.parametrize("flag", ["-fno-ipa-sra", "-fno-ipa-cp"])
def test_a_clone_that_changes_is_replaced_and_its_callers_stay(tmp_path: Path, flag: str) -> None:
    account = accounted(tmp_path, CLONES, CLONES.replace("how * 3", "how * 4"), flag)
    assert {one.partition(".")[0] for one in names(account)} == {"part"}


def test_a_clone_that_goes_changes_its_callers(tmp_path: Path) -> None:
    account = accounted(tmp_path, CLONES, CLONES.replace("part(p, 5) + 1", "part(p, (int)p->second) + 1"))
    assert names(account) == {"one", "two"}
    assert [one.name for one in account.removed] != [one.name for one in account.added]


def test_the_name_that_a_function_hands_out_is_compared(tmp_path: Path) -> None:
    text = "extern void say(const char *);\nvoid %s(void) { say(__func__); }\nvoid other(void) { say(__func__); }\n"
    account = accounted(tmp_path, text % "old", text % "new")
    assert names(account) == set()
    assert ([one.name for one in account.added], [one.name for one in account.removed]) == (["new"], ["old"])


@pytest.mark.parametrize(
    ("text", "old", "new", "changed"),
    [
        (DESCRIBED, (7, 0), (8, 0), set()),
        (DESCRIBED, (7, 0), (7, 1), {"work"}),
        (INDEX, (7, "3"), (8, "3"), set()),
        (INDEX, (7, "3"), (7, "4"), {"work"}),
    ],
    ids=["line of a debug message", "its switch", "line of a message", "its level"],
)
def test_of_a_description_of_a_message_only_the_line_may_differ(
    tmp_path: Path, text: str, old: tuple[object, ...], new: tuple[object, ...], changed: set[str]
) -> None:
    account = accounted(tmp_path, text % old, text % new)
    assert names(account) == changed
    assert account.lines == ([] if changed else ["work"])
    assert quiet(account)


def test_two_neighbours_in_a_section_are_told_apart_behind_an_operand(tmp_path: Path) -> None:
    """In `cmpl $1000, x(%rip)` the field is four bytes further from what follows it."""
    text = """
static int first __attribute__((section(".data..read_mostly"))) = 1;
static int second __attribute__((section(".data..read_mostly"))) = 2;
int get(void) { asm volatile("cmpl $1000, %0" : : "m" (%s)); return first + second; }
"""
    asm = text.replace("%0", "%%0")
    account = accounted(tmp_path, asm % "first", asm % "second")
    assert names(account) == {"get"}


def test_a_static_variable_is_found_before_an_operand(tmp_path: Path) -> None:
    """In `cmpb $0, x(%rip)` the reference seems to lead to the byte before the variable."""
    text = "int get(int y) { static char x; char *volatile p = &x; *p = y; if (x == %d) x = 5; return x; }\n"
    account = accounted(tmp_path, text % 7, text % 7)
    assert account.empty
    assert (account.added, account.removed) == ([], [])
    two = "void get(int y) { static char a%d; { static char x; x = 5; } { static char x; if (y) x = 6; } }\n"
    assert accounted(tmp_path, two % 1, two % 1).removed == []


@pytest.mark.parametrize("name", ["CSWTCH.1", ""], ids=["table of a switch", "jump table"])
def test_a_table_that_code_refers_to_from_before_its_start_is_compared(tmp_path: Path, name: str) -> None:
    """The compiler does so if the first index is not zero."""

    def made(file: str, content: bytes) -> Path:
        one = Made().section(".text.f", bytes(16), code=True).section(".rodata.CSWTCH.1", content)
        one.symbol("f", ".text.f", size=16)
        if name:
            one.symbol(name, ".rodata.CSWTCH.1", size=len(content), kind=OBJECT)
        table = one.symbol("", ".rodata.CSWTCH.1", kind=SECTION)
        return one.relocation(".text.f", 4, table, kind=R_X86_64_32S, addend=-400).write(tmp_path / file)

    before = made("before.o", b"\1\2\3\4")
    assert names(take_account(before, made("after.o", b"\1\2\7\4"), SIZES)) == {"f"}
    assert take_account(before, made("same.o", b"\1\2\3\4"), SIZES).empty


def test_static_variables_are_followed_from_one_to_the_next(tmp_path: Path) -> None:
    """A new one of the same name shifts the numbers of all; which is which follows from what leads to it."""
    text = """
struct node { struct node *next; int value; };
extern void use(struct node *);
void a(void) { %s use(0); }
void b(void)
{
	static struct node x = { 0, 1 };
	{ static struct node y = { &x, 2 }; { static struct node x = { &y, 3 }; use(&x); } }
}
"""
    account = accounted(tmp_path, text % "", text % "static struct node x = { 0, 9 }, y = { &x, 8 }; use(&y);")
    assert names(account) == {"a"}
    assert quiet(account)
    assert sorted(plain(one.name) for one in account.added) == ["x", "y"]
    assert account.removed == []


def test_a_static_variable_of_a_macro_is_told_by_its_function(tmp_path: Path) -> None:
    text = """
extern int limited(void *);
#define SAY(by) do { static struct { int every, burst; } _rs = { by, 10 }; limited(&_rs); } while (0)
void a(void) { SAY(5); }
void b(void) { SAY(%d); }
"""
    account = accounted(tmp_path, text % 5, text % 6)
    assert [one.user for one in account.states] == ["b"]
