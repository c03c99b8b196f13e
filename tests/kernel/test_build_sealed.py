# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels with IBT seal entries that nobody calls through a pointer: new code must not make such a pointer."""

from __future__ import annotations

from typing import Any

import pytest
from edits import before, patch_of

from elivepatch.build.base.store import Base
from elivepatch.kernel.elf import BIND_GLOBAL, TYPE_FUNC
from elivepatch.model.errors import Kind

pytestmark = pytest.mark.kernel

VERSION, SHOW, END = "fs/proc/version.c", "static int version_proc_show", "	return 0;\n}\n\nstatic int __init"


def sealed_function(base: Base) -> str:
    """A global function whose entry the kernel sealed, the first by name."""
    linked = base.vmlinux
    return next(
        name for name, same in sorted(linked.named.items())
        if len(same) == 1 and same[0].bind == BIND_GLOBAL and same[0].kind == TYPE_FUNC
        and linked.elf.sections[same[0].section].name == ".text" and same[0].value in linked.sealed(same[0].section)
        and name not in base.exports
    )  # fmt: skip


def taking(base: Base, use: str, declared: str = "") -> str:
    # By another name in C, since a header may declare it in another way.
    target = f'extern void sealed_target(void) __asm__("{sealed_function(base)}");\n{declared}'
    return patch_of(base.tree, before(VERSION, SHOW, target), before(VERSION, END, use))


def test_thousands_of_entries_are_sealed_with_ibt_and_none_without(base_6_1: Base, base_6_12: Base) -> None:
    assert len(base_6_12.vmlinux.sealed(1)) > 10_000
    assert base_6_1.vmlinux.sealed(1) == frozenset()


@pytest.mark.parametrize(
    ("use", "declared"),
    [
        ('	seq_printf(m, "%px\\n", sealed_target);\n', ""),
        ("	kept();\n", "static void (*volatile kept)(void) = sealed_target;\n"),
    ],
    ids=["in code", "in data"],
)
def test_a_pointer_to_a_sealed_function_is_refused(base_6_12: Base, build: Any, use: str, declared: str) -> None:
    problem = build(base_6_12, taking(base_6_12, use, declared)).problem
    assert problem is not None
    assert (problem.code, problem.kind) == ("sealed-endbr", Kind.VERDICT)
    assert sealed_function(base_6_12) in problem.message


def test_a_direct_call_of_a_sealed_function_is_fine(base_6_12: Base, build: Any) -> None:
    assert build(base_6_12, taking(base_6_12, "	sealed_target();\n")).problem is None


def test_a_pointer_to_a_function_that_is_not_sealed_is_fine(base_6_12: Base, build: Any) -> None:
    use = '	seq_printf(m, "%px\\n", seq_puts);\n'
    assert build(base_6_12, patch_of(base_6_12.tree, before(VERSION, END, use))).problem is None
