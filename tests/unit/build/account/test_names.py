# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that the compiler and the kernel's macros number, and sections by their use."""

from __future__ import annotations

import pytest

from elivepatch.build.account.names import (
    is_cold,
    is_constant,
    is_derived,
    is_left_out,
    is_state,
    parent_of,
    plain,
    runs_once,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sum.0", "sum"), ("sum", "sum"), ("copy.isra.0", "copy.isra"), ("copy.part.3.cold", "copy.part.cold"),
        ("CSWTCH.125", "CSWTCH"), ("udp4_lib", "udp4_lib"), ("__UNIQUE_ID_ddebug612.4", "__UNIQUE_ID_ddebug"),
        ("__UNIQUE_ID_modinfo_77", "__UNIQUE_ID_modinfo_"),
        ("__BTF_ID__struct__sock__4711", "__BTF_ID__struct__sock__"),
        (".rodata.name.str1.8", ".rodata.name.str1.8"), (".rodata.cst16", ".rodata.cst16"), (".bss.x.12", ".bss.x"),
    ],
)  # fmt: skip
def test_only_the_numbers_of_the_compiler_go(name: str, expected: str) -> None:
    assert plain(name) == expected


@pytest.mark.parametrize(
    ("name", "parent", "cold"),
    [
        ("f.cold", "f", True), ("f.part.0", "f", False), ("f.part.0.cold", "f.part.0", True), ("f", "", False),
        ("f.isra.0.cold", "f.isra.0", True), ("f.constprop.0", "", False), ("f.cold.1", "f", True),
    ],
)  # fmt: skip
def test_a_part_names_its_function(name: str, parent: str, cold: bool) -> None:
    assert (parent_of(name), is_cold(name)) == (parent, cold)


@pytest.mark.parametrize(
    ("name", "section", "constant", "state"),
    [
        ("CSWTCH.1", ".rodata.CSWTCH.1", True, False), ("__func__.7", ".rodata.__func__.7", True, False),
        ("__func__", ".rodata.__func__", False, False), ("_rs.3", ".data._rs.3", False, True),
        ("nopage_rs.3", ".data.nopage_rs.3", False, False), ("__already_done.0", ".data..once", False, True),
        ("__UNIQUE_ID_ddebug5.1", "__dyndbg", True, False), ("limit.0", ".data.limit.0", False, False),
    ],
)  # fmt: skip
def test_constants_and_states_of_macros_are_known(name: str, section: str, constant: bool, state: bool) -> None:
    assert (is_constant(name, section), is_state(name, section)) == (constant, state)


def test_sections_are_known_by_their_use() -> None:
    once = (".init.text", ".init.setup", ".initcall5.init", ".exit.text", ".exitcall.exit", ".init.rodata")
    derived = (".orc_unwind_ip", "__mcount_loc", ".return_sites", "__patchable_function_entries")
    left_out = (".comment", ".note.Linux", ".discard.addressable", ".modinfo")
    others = (".text.init", ".data.initial", "__param", "__ex_table", ".export_symbol", ".data..once")
    names = (*once, *derived, *left_out, *others)
    assert tuple(filter(runs_once, names)) == once
    assert tuple(filter(is_derived, names)) == derived
    assert tuple(filter(is_left_out, names)) == left_out
