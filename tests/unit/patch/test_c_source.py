# SPDX-License-Identifier: GPL-2.0-or-later
"""Definitions in a kernel source are found by its coding style; an unknown form is left out."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.patch.c_source import DefinitionKind, enclosing, read_definitions, words_of

SOURCE = """\
// SPDX-License-Identifier: GPL-2.0
#include <linux/fs.h>
#define LIMIT 3
#define BOTH(x) \\
	do { x; } while (0)

struct box {
	int a; /* } */
};

typedef struct {
	int b;
} Node;

static const struct file_operations box_fops;
static int count __read_mostly = 1;
static struct box *boxes[4], *more;
int (*hook)(int);

static DEFINE_MUTEX(box_lock);
DEFINE_SHOW_ATTRIBUTE(box)

int box_get(struct box *b);

/*
 * static int commented(void)
 */
static inline int box_get_locked(struct box *b)
	__must_hold(&box_lock)
{
	const char *s = "} // {";

	if (s) {
		return b->a;
	}
#ifdef CONFIG_A
	if (b->a) {
#else
	if (b) {
#endif
		return 1;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(box_get_locked);

static const struct file_operations box_fops = {
	.owner = THIS_MODULE,
	.open = box_open,
};

SYSCALL_DEFINE2(box, unsigned int, count, int, flags)
{
	return do_box(count, flags);
}

static int __init
box_init(void)
{
	return 0;
}
module_init(box_init);
"""


def test_every_item_is_found_with_its_name_and_its_lines() -> None:
    found = [(one.kind, one.name, one.start, one.end) for one in read_definitions(SOURCE)]
    assert found == [
        (DefinitionKind.MACRO, "LIMIT", 3, 3),
        (DefinitionKind.MACRO, "BOTH", 4, 5),
        (DefinitionKind.TYPE, "box", 7, 9),
        (DefinitionKind.TYPE, "Node", 11, 13),
        (DefinitionKind.DATA, "box_fops", 15, 15),
        (DefinitionKind.DATA, "count", 16, 16),
        (DefinitionKind.DATA, "more", 17, 17),
        (DefinitionKind.DATA, "hook", 18, 18),
        (DefinitionKind.USE, "box_lock", 20, 20),
        (DefinitionKind.USE, "box", 21, 22),
        (DefinitionKind.OTHER, "", 23, 23),
        (DefinitionKind.FUNCTION, "box_get_locked", 28, 44),
        (DefinitionKind.USE, "box_get_locked", 45, 45),
        (DefinitionKind.DATA, "box_fops", 47, 50),
        (DefinitionKind.FUNCTION, "sys_box", 52, 55),
        (DefinitionKind.FUNCTION, "box_init", 57, 61),
        (DefinitionKind.USE, "box_init", 62, 62),
    ]


def test_the_head_of_a_function_holds_its_marks() -> None:
    function = next(
        one for one in read_definitions(SOURCE) if one.name == "box_init" and one.kind is DefinitionKind.FUNCTION
    )
    assert function.head == "static int __init box_init(void)"
    assert "__init" in function.words


def test_a_line_belongs_to_the_item_around_it() -> None:
    items = read_definitions(SOURCE)
    inside, outside = enclosing(items, 40), enclosing(items, 46)
    assert inside is not None
    assert inside.name == "box_get_locked"
    assert outside is None


def test_words_of_comments_and_literals_are_no_words_of_code() -> None:
    assert words_of("a(/* b */ \"c\", 'd'); // e") == {"a"}


@pytest.mark.parametrize("text", ["", "\n", "}", "{", ";", "#define", "a\\", '"', "/*", "(((", "= {", "static"])
def test_what_is_no_c_defines_nothing_and_does_no_harm(text: str) -> None:
    assert all(
        one.kind in {DefinitionKind.OTHER, DefinitionKind.MACRO, DefinitionKind.DATA} for one in read_definitions(text)
    )


@given(st.text("ab(){};=#\\\n\"'/* _,[]", max_size=200))
def test_items_are_in_order_and_do_not_overlap(text: str) -> None:
    items = read_definitions(text)
    assert all(1 <= one.start <= one.end <= text.count("\n") + 1 for one in items)
    assert all(one.start <= other.start for one, other in itertools.pairwise(items))


def test_a_long_head_without_a_function_is_read_in_no_time() -> None:
    """Sources are as hostile as patches; this one took an hour, and so did kernel/sched/rt.c."""
    words = " ".join(f"word{number}" for number in range(3000))
    started = time.monotonic()
    read_definitions(f"static int table(x) {words} [3]\n{{\n}};\n" + f"f(x) {'a' * 5000};\n")
    assert time.monotonic() - started < 2
