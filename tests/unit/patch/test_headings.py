# SPDX-License-Identifier: GPL-2.0-or-later
"""Headings of hunks are those of diff -p and git, and name the item that they begin."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from elivepatch.patch.headings import Headings, agree, is_cut, named, with_headings
from elivepatch.process import run

TEXT = """\
#include <linux/box.h>

struct box {
	int size;
};

static int get(struct box *box, int size,
		int count)
{
	int a = size;

	if (!a)
		goto out;
	return a;
out:
	return box->size;
	/* a */
	/* b */
	/* c */
	/* d */
}
EXPORT_SYMBOL(get);

SYSCALL_DEFINE2(fetch, int, a, int, b)
{
	return a;
}
"""


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("static ssize_t kpagecount_read(struct file *file, char __user *buf,", "kpagecount_read"),
        ("static ssize_t kpagecount_read(struct fi", "kpagecount_read"),
        ("xfs_init_percpu_counters(", "xfs_init_percpu_counters"),
        ("static int __printf(2, 3) say(const char *text, ...)", "say"),
        ("struct box {", "struct box"),
        ("enum box_state {", "enum box_state"),
        ("static const struct file_operations box_fops = {", "box_fops"),
        ("static const u8 table[16][4] = {", "table"),
        ("SYSCALL_DEFINE2(fetch, int, a, int, b)", "SYSCALL_DEFINE2(fetch"),
        ("EXPORT_SYMBOL(get);", "EXPORT_SYMBOL(get"),
        ("static DEFINE_MUTEX(lock);", "DEFINE_MUTEX(lock"),
        ("out:", None),
        ("out_free: kfree(box);", None),
        ("case 4:", None),
        ("enum {", None),
        ("static int very_long_name_of_a_functio", None),
        ("", None),
    ],
)
def test_a_heading_names_the_item_that_it_begins(heading: str, name: str | None) -> None:
    assert named(heading) == name


@pytest.mark.parametrize(
    ("heading", "line", "same"),
    [
        ("int get(int a)", "int get(int a, int b)", True),
        ("static  int get(int a)", "int get(long a)", True),
        ("int get(int a)", "int get_all(int a)", False),
        ("SYSCALL_DEFINE2(fetch, int, a, int, b)", "SYSCALL_DEFINE2(store, int, a, int, b)", False),
        ("static int __init module_decompress_sysf", "static int __init module_decompress_sysfs_init(void)", True),
        ("static int __init module_decompress_sysf", "static int __init module_decompress_exit(void)", False),
        ("static int get", "static int get_more(void)", False),
        ("struct box {", "struct box_state {", False),
        ("out:", "out_free:", False),
        ("", "int get(int a)", False),
    ],
)
def test_headings_agree_by_the_name(heading: str, line: str, same: bool) -> None:
    assert agree(heading, line) is same


def test_only_a_heading_of_full_length_is_cut() -> None:
    assert is_cut("static int __init module_decompress_sysf")
    assert not is_cut("static int get")
    assert not is_cut(f"{'a' * 60}:")


def test_headings_are_those_that_diff_prints(tmp_path: Path) -> None:
    old, new = tmp_path / "old.c", tmp_path / "new.c"
    lines = TEXT.splitlines(True)
    old.write_text(TEXT)
    headings = Headings(TEXT.splitlines())
    for number in range(4, len(lines)):
        new.write_text("".join([*lines[:number], "	x();\n", *lines[number:]]))
        header = run(["diff", "-up", old, new]).text.splitlines()[2]
        shown = header.split("@@")[2].strip()
        first = int(header.split()[1][1:].split(",")[0])
        assert shown in {one[:40].rstrip() for one in headings.possible(first)}


def test_an_items_beginning_is_found_by_its_name() -> None:
    headings = Headings(["int get(int a);", "int put(void)", "{", "}", "int get(int a)", "{", "}"])
    assert headings.begins("get") == 5
    assert headings.begins("set") is None


def test_a_diff_gets_the_headings_that_git_writes() -> None:
    old = TEXT.splitlines(True)
    new = [*old[:9], "	a++;\n", *old[9:23], "	/* e */\n", *old[23:]]
    made = list(with_headings(difflib.unified_diff(old, new, "a", "b", n=1), old))
    assert [line for line in made if line.startswith("@@")] == [
        "@@ -9,2 +9,3 @@ static int get(struct box *box, int size,\n",
        "@@ -23,2 +24,3 @@ EXPORT_SYMBOL(get);\n",
    ]
    assert "".join(made).count("\n") == len(made)
