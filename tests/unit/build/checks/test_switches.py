# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches that a livepatch loses, or has for itself, are named with the functions that test them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from elf_maker import GLOBAL, OBJECT, SECTION, Made

from elivepatch.build.checks.switches import switch_notes
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.build import Note
from elivepatch.model.errors import BuildStopped

TABLE = "__jump_table"
Notes = Callable[[Made, Made], list[Note]]
Jump = tuple[str, int, str]
"""Function, offset in it, and switch: `dyndbg` stands for a debug message, nothing for a reference that was moved."""


def made(*jumps: Jump) -> Made:
    """An object with the functions `changed`, its unlikely part, and `other`; code is given by section, as gcc does."""
    one = Made().section(TABLE, bytes(16 * len(jumps))).section("__dyndbg", bytes(56))
    sections = {}
    for name in ("changed", "changed.cold", "other"):
        one.section(f".text.{name}", bytes(80), code=True)
        one.symbol(name, f".text.{name}", value=16, size=64)
        sections[name] = one.symbol("", f".text.{name}", kind=SECTION)
    keys = {"dyndbg": one.symbol("__UNIQUE_ID_ddebug1.2", "__dyndbg", size=56, kind=OBJECT)}
    for number, (function, offset, key) in enumerate(jumps):
        if key and key not in keys:
            keys[key] = one.symbol(key, kind=OBJECT, bind=GLOBAL)
        places = [(0, sections[function], 16 + offset), (4, sections[function], 60)]
        for at, symbol, addend in [*places, *([(8, keys[key], 8)] if key else [])]:
            one.relocation(TABLE, 16 * number + at, symbol, addend=addend)
    return one


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    def found(patched: Made, difference: Made) -> list[Note]:
        paths = [one.write(tmp_path / name) for one, name in ((patched, "patched.o"), (difference, "diff.o"))]
        elves = [ElfFile(path) for path in paths]
        return list(switch_notes(elves[0], elves[1], functions={"changed"}, source="demo.c"))

    return found


TRACED: Jump = ("changed", 8, "__tracepoint_demo_event")
COLD: Jump = ("changed.cold", 8, "__tracepoint_demo_error")
ELSEWHERE: Jump = ("other", 8, "__tracepoint_other_event")
DEBUG: Jump = ("changed", 24, "dyndbg")
KEY: Jump = ("changed", 32, "demo_key")


def test_a_tracepoint_that_is_left_out_is_named_with_its_function(notes: Notes) -> None:
    (note,) = notes(made(TRACED), made())
    assert note.code == "tracepoint"
    assert note.message.startswith("The tracepoint demo_event is dead in changed of demo.c,")


def test_the_unlikely_part_of_a_function_belongs_to_it(notes: Notes) -> None:
    (note,) = notes(made(COLD), made())
    assert "demo_error is dead in changed of demo.c" in note.message


def test_each_tracepoint_is_named_once(notes: Notes) -> None:
    twice = made(TRACED, ("changed", 40, TRACED[2]), COLD)
    assert len(notes(twice, made())) == 2


def test_a_tracepoint_of_the_kernel_itself_stays(notes: Notes) -> None:
    moved: Jump = (*TRACED[:2], "")  # to the table of what livepatch resolves, as create-diff-object does it
    assert notes(made(TRACED), made(moved)) == []
    assert notes(made(KEY), made((*KEY[:2], ""))) == []


def test_switches_of_functions_that_do_not_change_are_left_alone(notes: Notes) -> None:
    assert notes(made(ELSEWHERE), made()) == []


def test_debug_messages_have_new_switches(notes: Notes) -> None:
    (note,) = notes(made(DEBUG), made(DEBUG))
    assert note.code == "debug-messages"
    assert "debug messages in changed of demo.c are off" in note.message


def test_a_key_that_is_left_out_is_refused(notes: Notes) -> None:
    with pytest.raises(BuildStopped) as caught:
        notes(made(KEY), made())
    assert caught.value.problem.code == "jump-label"
    assert "changed in demo.c tests demo_key" in caught.value.problem.message


def test_an_object_without_switches_has_no_note(notes: Notes) -> None:
    assert notes(Made(), Made()) == []
