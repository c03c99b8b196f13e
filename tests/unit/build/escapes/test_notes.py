# SPDX-License-Identifier: GPL-2.0-or-later
"""The note about what outlives a livepatch names the line of the patch that hands it out."""

from __future__ import annotations

from elivepatch.build.escapes.flow import Escape
from elivepatch.build.escapes.image import Thing
from elivepatch.build.escapes.notes import OUTLIVES, note_of
from elivepatch.patch.locate import ChangedLine


def line(number: int, text: str, *, sign: str = "+") -> ChangedLine:
    return ChangedLine(path="fs/a.c", number=number, sign=sign, text=text, inside=None)


CHANGED = [
    line(3, "static struct timer_list later;"),
    line(9, "	mod_timer(&later, jiffies);", sign="-"),
    line(11, "	mod_timer(&later, jiffies + HZ);"),
    line(12, '	o->name = "a name";'),
]


def escape(what: str, name: str, how: str) -> Escape:
    return Escape(Thing(what, name, 1, 0), "show.isra.0", how, "fs/a.c:7")


def test_the_last_added_line_with_the_name_is_the_one_that_hands_it_out() -> None:
    note = note_of([escape("variable", "later", "passes later to mod_timer")], CHANGED)
    assert note is not None
    assert note.code == OUTLIVES
    assert note.message == (
        "show passes later to mod_timer (fs/a.c:11). "
        "The livepatch therefore stays in memory after it is taken out, until a reboot."
    )


def test_a_literal_is_found_by_its_text_and_what_no_line_names_by_the_debug_information() -> None:
    note = note_of([escape("literal", '"a name"', "stores"), escape("function", "old", "returns old")], CHANGED)
    assert note is not None
    assert note.message.startswith("show stores (fs/a.c:12); show returns old (fs/a.c:7). ")


def test_many_are_counted_and_none_is_no_note() -> None:
    note = note_of([escape("variable", f"v{number}", f"stores v{number}") for number in range(9)], [])
    assert note is not None
    assert "; and 5 more. The livepatch" in note.message
    assert note_of([], CHANGED) is None
