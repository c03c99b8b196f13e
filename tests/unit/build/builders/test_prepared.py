# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers in the assembly from which make writes bounds.h and asm-offsets.h."""

from __future__ import annotations

import pytest

from elivepatch.build.builders.prepared import numbers

NEW = b"""
\t.file\t"bounds.c"
#APP
# 19 "kernel/bounds.c" 1
\t
.ascii "->NR_PAGEFLAGS $24 __NR_PAGEFLAGS"\t#
# 0 "" 2
.ascii "->"
.ascii "->#comment"
.ascii "->low $-8 LOW"\t#
"""
OLD = b"""
->NR_PAGEFLAGS $24 __NR_PAGEFLAGS\t#
->
->low $-8 LOW\t#
"""


@pytest.mark.parametrize("assembly", [NEW, OLD], ids=["in .ascii", "as older kernels write it"])
def test_each_number_has_its_name(assembly: bytes) -> None:
    assert numbers(assembly) == {"NR_PAGEFLAGS": "24", "low": "-8"}


def test_instructions_are_no_numbers() -> None:
    assert numbers(b"\tmovq\t8(%rdi), %rax\t# p->next $5\n") == {}
