# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts of structures are read from pahole's words and compared; only what both objects know can change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.checks.layout import Layout, compare_layouts, read_layouts

LISTING = """\
struct kref {
	refcount_t                 refcount;             /*     0     4 */

	/* size: 4, cachelines: 1, members: 1 */
	/* last cacheline: 4 bytes */
};
struct demo {
	struct kref                kref;                 /*     0     4 */

	/* XXX 4 bytes hole, try to pack */

	struct {
		int                in;                   /*     8     4 */
	} sub;                                           /*     8     4 */
	unsigned int               flag:1;               /*    12: 0  4 */

	/* XXX 31 bits hole, try to pack */

	/* size: 16, cachelines: 1, members: 3 */
	/* sum members: 8, holes: 1, sum holes: 4 */
	/* bit_padding: 31 bits */
} __attribute__((__aligned__(8)));
typedef struct {
	int                        a;                    /*     0     4 */

	/* size: 4, cachelines: 1, members: 1 */
} node_t;
union both {
	int                        a;                    /*     0     4 */
	char                       c[8];                 /*     0     8 */
};
struct {
	int                        p;                    /*     0     4 */

	/* size: 4, cachelines: 1, members: 1 */
};
struct empty {

	/* size: 0, cachelines: 0, members: 0 */
};
"""


def one(listing: str, name: str) -> Layout:
    (layout,) = read_layouts(listing)[name]
    return layout


def test_structures_go_by_their_tag_or_by_the_name_of_their_type() -> None:
    assert set(read_layouts(LISTING)) == {
        "struct kref", "struct demo", "node_t", "union both", "an unnamed structure", "struct empty",
    }  # fmt: skip


def test_members_have_place_and_size_and_remarks_do_not_count() -> None:
    assert one(LISTING, "struct demo") == Layout(
        16,
        (
            "struct kref kref; /* 0 4 */",
            "struct {",
            "int in; /* 8 4 */",
            "} sub; /* 8 4 */",
            "unsigned int flag:1; /* 12: 0 4 */",
        ),
    )


def test_a_union_is_as_large_as_its_largest_member() -> None:
    assert one(LISTING, "union both").size == 8


def changed(old: str, new: str) -> list[str]:
    return list(compare_layouts(read_layouts(LISTING), read_layouts(LISTING.replace(old, new, 1))))


def test_what_stays_is_no_change() -> None:
    assert changed("", "") == []


def test_a_moved_retyped_renamed_or_inner_member_is_a_change() -> None:
    assert changed("/*    12: 0  4 */", "/*    12: 1  4 */") == ["struct demo"]
    assert changed("unsigned int               flag", "bool               flag") == ["struct demo"]
    assert changed("flag:1", "flags:1") == ["struct demo"]
    assert changed("int                in;", "long               in;") == ["struct demo"]
    node = "a;                    /*     0     4 */\n\n\t/* size: 4"
    assert changed(node, node.replace("size: 4", "size: 8")) == ["node_t"]


def test_a_hole_that_was_filled_is_a_change() -> None:
    assert changed("	/* XXX 4 bytes hole, try to pack */\n", "	int filled; /*     4     4 */\n") == [
        "struct demo"
    ]


def test_a_structure_that_came_or_went_is_no_change() -> None:
    assert compare_layouts(read_layouts(""), read_layouts(LISTING)) == {}
    assert compare_layouts(read_layouts(LISTING), read_layouts("")) == {}


def test_another_structure_of_the_same_name_is_no_change() -> None:
    local = "struct kref {\n	int a;   /*     0     4 */\n\n	/* size: 4, cachelines: 1, members: 1 */\n};\n"
    assert compare_layouts(read_layouts(LISTING), read_layouts(LISTING + local)) == {}


def test_both_layouts_are_told() -> None:
    old, new = compare_layouts(read_layouts(LISTING), read_layouts(LISTING.replace("size: 16", "size: 24")))[
        "struct demo"
    ]
    assert (old.size, new.size) == (16, 24)


@given(st.text(alphabet=st.sampled_from("struct {};/*int 0123\n\ttypedef unionabc_:"), max_size=300))
def test_any_text_gives_layouts(text: str) -> None:
    assert compare_layouts(read_layouts(text), read_layouts(text)) == {}
