# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory keeps its meaning: what old code wrote is what new code reads, or the series is refused."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from c_types import types_of
from compiled import compiled, needs_gcc
from hypothesis import given, settings
from hypothesis import strategies as st
from outside import OutsideSandbox

from elivepatch.build.checks.layout.check import check_layouts, compare_layouts
from elivepatch.model.build import Note
from elivepatch.model.errors import BuildStopped, EnvironmentFault, Problem

SOURCE = """\
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef u32 le32;
typedef struct { int counter; } atomic_t;
typedef struct refcount_struct { atomic_t refs; } refcount_t;
typedef struct { u64 first; u64 second; } node_t;
struct list { struct list *next, *prev; };
struct hlist { struct hlist *next; void *prev; };
enum state { IDLE, BUSY, BROKEN, NR_STATES };
enum { FLAG_A = 1, FLAG_B = 2 };
union value { u32 number; u8 bytes[4]; };
struct item { struct list entry; u64 key; };
struct request { u32 sector; u32 length; struct request *peer; int code; };
struct operations {
	int (*open)(struct item *one, int mode);
	void (*close)(struct item *one);
};
struct device {
	struct list entry;
	u32 flags:3, kind:4;
	int users;
	int spare;
	u32 low; u32 high;
	u16 table[2][4];
	union { u32 whole; struct { u16 left; u16 right; }; };
	struct { u8 one; u8 two; } pair;
	u8 padded;
	void *data;
	struct item *item;
	const char *name;
	node_t node;
	atomic_t count;
	le32 wire;
	enum state state;
	union value value;
	const struct operations *operations;
};
struct device first_device = { .users = FLAG_A };
static u64 total = 1;
static int handle(struct request *one) { return one->code + one->sector; }
int use(struct device *one, enum state state, struct operations *operations)
{
	struct request request = { .sector = one->users };
	struct hlist *volatile other = 0;
	volatile refcount_t references = { };
	struct { u64 local; } on_stack = { one->node.first };
	total += FLAG_B + on_stack.local + references.refs.counter + (other != 0);
	return handle(&request) + (state == BUSY) + operations->open(one->item, 0);
}
"""


def edited(*edits: tuple[str, str]) -> str:
    text = SOURCE
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def notes(*edits: tuple[str, str]) -> list[Note]:
    return list(compare_layouts(types_of(SOURCE), types_of(edited(*edits)), source="demo.c"))


def refusal(*edits: tuple[str, str]) -> Problem:
    with pytest.raises(BuildStopped) as caught:
        notes(*edits)
    assert caught.value.problem.code == "data-layout"
    assert caught.value.problem.message.startswith("demo.c changes ")
    return caught.value.problem


def everywhere(old: str, new: str) -> list[tuple[str, str]]:
    """Return edits that give a structure another name in all places."""
    lines = [line for line in SOURCE.splitlines(keepends=True) if f"struct {old}" in line]
    return [(line, line.replace(f"struct {old}", f"struct {new}")) for line in dict.fromkeys(lines)]


def renamed(old: str, new: str, *more: tuple[str, str]) -> str:
    text = SOURCE
    for line, other in everywhere(old, new):
        text = text.replace(line, other)
    for before, after in more:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def compared(patched: str) -> list[Note]:
    return list(compare_layouts(types_of(SOURCE), types_of(patched), source="demo.c"))


def test_the_same_types_in_another_order_are_no_change() -> None:
    assert notes(("struct list {", "struct more { int a; };\nstruct more *more;\nstruct list {")) == []


REFUSED = {
    "a member that grows": ("int users;", "long users;", "struct device from"),
    "a member more": ("int users;", "int users; u64 more;", "struct device from"),
    "a member less": ("u32 low; u32 high;", "u32 low;", "struct device"),
    "a member in a hole": ("u8 padded;", "u8 padded; u8 filled;", "filled is new at byte"),
    "two members that change places": ("u32 low; u32 high;", "u32 high; u32 low;", "instead of byte"),
    "a bit-field that gets wider": ("kind:4", "kind:5", "kind is at bit 131 (5 wide) instead of bit 131 (4 wide)"),
    "a bit-field that moves": ("flags:3, kind:4", "kind:4, flags:3", "instead of bit"),
    "an array that grows in a structure": ("u16 table[2][4]", "u16 table[3][4]", "struct device from"),
    "an array with other dimensions": ("u16 table[2][4]", "u16 table[4][2]", "table has the type"),
    "a member of a union that grows": ("u8 bytes[4]", "u8 bytes[8]", "union value"),
    "a member more in a union": ("union value { u32 number;", "union value { u32 number; u16 half;",
                                 "half is new at byte 0"),
    "members of a union without a name": ("u16 left; u16 right;", "u8 left; u8 right; u16 rest;", "struct device"),
    "a structure inside without a name": ("u8 one; u8 two;", "u8 two; u8 one;", "pair.one is at byte 1"),
    "a structure that only a typedef names": ("u64 first; u64 second;", "u64 first; u64 second; u64 third;",
                                              "node_t from 16 to 24 bytes"),
    "a type behind a typedef": ("typedef u32 le32;", "typedef u64 le32;", "struct device from"),
    "an integer that becomes a pointer": ("struct item { struct list entry; u64 key; }",
                                          "struct item { struct list entry; void *key; }", "struct item"),
    "a pointer to another structure": ("struct item *item;", "struct list *item;", "item has the type `struct list *`"),
    "a pointer to another structure of the same shape": ("struct list *next, *prev; };",
                                                         "struct twin { struct list *a, *b; } *next; void *prev; };",
                                                         "struct list (same size, other members): next has the type"),
    "a pointer to wider numbers": ("const char *name;", "const u16 *name;", "name has the type `u16 *`"),
    "a list of another kind": ("struct device {\n	struct list entry;", "struct device {\n	struct hlist entry;",
                               "entry is of struct hlist instead of struct list"),
    "a parameter more in a function of a table": ("(*close)(struct item *one)", "(*close)(struct item *one, int x)",
                                                  "struct operations (same size, other members): close has the type"),
    "a parameter of another type in a function of a table": ("(struct item *one, int mode)",
                                                             "(struct list *one, int mode)", "open has the type"),
    "a function of a table that returns something": ("void (*close)", "int (*close)", "close has the type"),
    "a variable that points at something else": ("static u64 total", "static void *total",
                                                   "changes the type of the variable total: has the type `void *`"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_series_is_refused_that_changes(name: str) -> None:
    old, new, words = REFUSED[name]
    assert words in refusal((old, new)).message


ACCEPTED = {
    "a member with another name": ("int spare;", "int owners;", "spare is now called owners"),
    "a number without a sign": ("int users;", "unsigned int users;",
                                "users has the type `unsigned int` instead of `int`"),
    "a number under another name of its type": ("le32 wire;", "u32 wire;", "wire has the type `u32` instead of `le32`"),
    "a long for its short name": ("u64 key;", "unsigned long key;", "struct item: key has the type"),
    "a counter in the place of a number": ("int spare;", "atomic_t spare;", "spare has the type `atomic_t`"),
    "a reference count for a counter": ("atomic_t count;", "refcount_t count;", "`refcount_t`"),
    "an enumeration for a number": ("int users;", "enum state users;", "users has the type `enum state`"),
    "a bit-field of another type": ("u32 flags:3", "int flags:3", "flags has the type `int`"),
    "a pointer that had no type": ("void *data;", "struct item *data;", "data has the type `struct item *`"),
    "a group around members": ("u32 low; u32 high;",
                               "union { struct { u32 low; u32 high; }; struct { u32 low; u32 high; } both; };", ""),
    "an empty member": ("u64 key;", "struct { } mark; u64 key;", ""),
    "a constant object behind a pointer": ("struct item *item;", "const struct item *item;", ""),
    "a parameter without a sign in a function of a table": ("int mode)", "unsigned int mode)", "open has the type"),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_note_is_enough_for(name: str) -> None:
    old, new, words = ACCEPTED[name]
    told = notes((old, new))
    if not words:
        assert told == []
        return
    assert [note.code for note in told] == ["type-meaning"], told
    assert words in told[0].message


def test_a_structure_with_a_new_name_is_the_same_structure() -> None:
    (note,) = compared(renamed("item", "entry_item"))
    assert note.message.startswith("struct item: is now called struct entry_item.")


@pytest.mark.parametrize(
    ("old", "old_text", "new_text"),
    [
        ("item", "u64 key;", "u64 key; u64 more;"),  # a member of another structure points at it
        ("request", "int code;", "int code; u64 more;"),  # a parameter and a local variable have it
        ("device", "int users;", "int users; u64 more[8];"),  # a variable has it
        ("request", "u32 sector; u32 length;", "u32 length; u32 sector;"),
    ],
)
def test_a_structure_that_changes_and_gets_a_new_name_is_refused(old: str, old_text: str, new_text: str) -> None:
    with pytest.raises(BuildStopped) as caught:
        compared(renamed(old, f"new_{old}", (old_text, new_text)))
    assert f"struct {old}, which becomes struct new_{old}," in caught.value.problem.message


def test_a_structure_of_a_local_variable_is_found_by_its_members() -> None:
    def with_local(name: str, members: str) -> str:
        function = f"int more(void) {{ struct {name} *volatile local = 0; return !local; }}\n"
        return f"{SOURCE}struct {name} {{ {members} }};\n{function}"

    with pytest.raises(BuildStopped) as caught:
        compare_layouts(
            types_of(with_local("box", "int a; int b; u64 c;")),
            types_of(with_local("chest", "int a; int b; int more; u64 c;")),
            source="demo.c",
        )
    assert "struct box, which becomes struct chest, from 16 to 24 bytes" in caught.value.problem.message


def test_a_structure_that_came_or_went_is_no_change() -> None:
    other = edited(("struct list {", "struct extra { long a, b, c; };\nstruct extra *extra;\nstruct list {"))
    assert compared(other) == []
    assert list(compare_layouts(types_of(other), types_of(SOURCE), source="demo.c")) == []


def test_another_structure_of_the_same_name_is_no_change() -> None:
    local = "int more(void) { struct item { char x; } item = { 1 }; volatile struct item *p = &item; return p->x; }\n"
    assert compared(SOURCE + local) == []


def test_another_prototype_of_a_function_alone_is_no_change() -> None:
    # All callers are compiled with it.
    assert notes(("int handle(struct request *one)", "long handle(struct request *one)")) == []


def test_another_type_of_an_exported_function_behind_the_same_name_is_refused() -> None:
    old = f"{SOURCE}typedef int (*done_t)(struct item *);\nint ask(done_t done) {{ return done(0); }}\n"
    new = old.replace("(*done_t)(struct item *)", "(*done_t)(struct item *, int)").replace("done(0)", "done(0, 1)")
    types = types_of(old), types_of(new)
    assert compare_layouts(*types, source="demo.c") == ()
    with pytest.raises(BuildStopped) as caught:
        compare_layouts(*types, source="demo.c", exported=("ask", "absent"))
    assert caught.value.problem.code == "export-type"
    assert "the exported ask is called" in caught.value.problem.message


def test_the_lines_of_a_structure_are_told() -> None:
    problem = refusal(("int users;", "int users; u64 more;"))
    assert "+ u64 more; /* " in problem.excerpt
    assert "struct device (" in problem.excerpt


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("IDLE, BUSY, BROKEN", "IDLE, PAUSED, BUSY, BROKEN", "BROKEN (enum state) from 2 to 3, and 1 more"),
        ("IDLE, BUSY, BROKEN", "BUSY, BROKEN", "BROKEN (enum state) from 2 to 1"),
        ("FLAG_B = 2", "FLAG_B = 4", "FLAG_B (an enumeration without a name) from 2 to 4"),
        ("IDLE, BUSY, BROKEN, NR_STATES", "NR_STATES, IDLE, BUSY, BROKEN", "the number of"),
    ],
)
def test_an_enumerator_with_another_number_is_refused(old: str, new: str, words: str) -> None:
    assert words in refusal((old, new)).message


def test_an_enumerator_behind_all_others_is_accepted_and_the_count_is_told() -> None:
    (note,) = notes(("BROKEN, NR_STATES", "BROKEN, PAUSED, NR_STATES"))
    assert note.code == "enumerators"
    assert "NR_STATES (enum state) counts 4 values instead of 3" in note.message


def test_an_array_with_the_length_of_a_count_is_refused() -> None:
    array = edited(("int users;", "int users; u8 by_state[NR_STATES];"))
    grown = array.replace("BROKEN, NR_STATES", "BROKEN, PAUSED, PAUSED_2, PAUSED_3, PAUSED_4, NR_STATES")
    with pytest.raises(BuildStopped) as caught:
        compare_layouts(types_of(array), types_of(grown), source="demo.c")
    assert "struct device" in caught.value.problem.message


def test_an_enumerator_more_that_nothing_counts_is_no_change() -> None:
    assert notes(("FLAG_B = 2", "FLAG_B = 2, FLAG_C = 4")) == []


def test_an_object_without_types_is_no_change() -> None:
    assert compare_layouts(b"", b"", source="demo.S") == ()


def test_structures_nested_beyond_all_measure_are_refused_not_a_crash() -> None:
    def nested(inner: str) -> str:
        return "struct deep { " + "struct { int a; " * 150 + inner + " } b; " * 150 + "} *deep;\n"

    with pytest.raises(BuildStopped) as caught:
        compare_layouts(types_of(nested("int c;")), types_of(nested("long c;")), source="demo.c")
    assert "struct deep" in caught.value.problem.message


@pytest.mark.parametrize("dimensions", [30, 1500])
def test_arrays_nested_beyond_all_measure_are_refused_not_a_crash(dimensions: int) -> None:
    old, new = (types_of(f"struct deep {{ {number} a{'[1]' * dimensions}; }} *deep;\n") for number in ("int", "long"))
    with pytest.raises((BuildStopped, EnvironmentFault)) as caught:
        compare_layouts(old, new, source="demo.c")
    assert caught.value.problem.code in {"data-layout", "elf-malformed"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_types_are_compared_or_refused(data: st.DataObject) -> None:
    content = bytearray(types_of(SOURCE))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(EnvironmentFault, BuildStopped):
        compare_layouts(types_of(SOURCE), bytes(content), source="demo.c")


def test_types_without_measure_take_no_more_time_than_their_size() -> None:
    def large(member: str, first: str) -> str:
        members = "".join(f"int {member}{number};" for number in range(12_000))
        numbers = ",".join(f"NR_{number}" for number in range(12_000))
        return f"struct large {{ {members} }} *large;\nenum many {{ {first}, {numbers} }} many;\n"

    old, new = types_of(large("a", "ZERO")), types_of(large("b", "ZERO, ONE"))
    started = time.process_time()
    with pytest.raises(BuildStopped) as caught:
        compare_layouts(old, new, source="demo.c")
    assert (
        "struct large (same size, other members): has more parts than can be compared" in caught.value.problem.message
    )
    assert time.process_time() - started < 5


@needs_gcc
@pytest.mark.parametrize("lacking", ["original", "patched"])
def test_an_object_whose_types_are_not_known_is_not_passed(tmp_path: Path, lacking: str) -> None:
    """A kernel without debug information: nothing would be compared, and each layout would pass."""
    original, patched = (
        compiled(tmp_path / f"{name}.o", "struct one { int a; } x;", *["-g"] * (name != lacking))
        for name in ("original", "patched")
    )
    sandbox = OutsideSandbox(runs=False).sandbox
    with pytest.raises(EnvironmentFault) as caught:
        check_layouts(original=original, patched=patched, source="fs/a.c", sandbox=sandbox)
    assert caught.value.problem.code == "types-missing"
