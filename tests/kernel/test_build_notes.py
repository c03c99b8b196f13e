# SPDX-License-Identifier: GPL-2.0-or-later
"""A change that can be a livepatch comes with notes about its effects."""

from __future__ import annotations

from typing import Any

import conversions
import pytest
from edits import patch_of

from elivepatch.build.base.store import Base

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("a static function that is inlined", "inlined", ("tbf_peak_present of net/sched/sch_tbf.c", "tbf_dequeue")),
        ("a static function that is gone", "code-removed", ("fs/timerfd.c", "timerfd_remove_cancel")),
        ("a header of one module", "header-reach", ("fs/fat/fat.h", "fs/fat/namei_vfat.c")),
    ],
)
def test_a_note_says_what_else_a_change_means(
    base_6_1: Base, build: Any, name: str, code: str, words: tuple[str, ...]
) -> None:
    outcome = build(base_6_1, patch_of(base_6_1.tree, *conversions.CASES[name]), check_only=True)
    assert outcome.problem is None
    notes = [note.message for note in outcome.notes if note.code == code]
    assert len(notes) == 1, outcome.notes
    for text in words:
        assert text in notes[0]


def test_a_change_of_one_function_needs_no_note(base_6_1: Base, build: Any) -> None:
    outcome = build(base_6_1, patch_of(base_6_1.tree, *conversions.CASES["a format"]), check_only=True)
    assert outcome.problem is None
    assert outcome.notes == ()


def test_a_fix_is_built_without_its_self_test_and_without_prefixes(base: Base, build: Any) -> None:
    fix = patch_of(base.tree, *conversions.CASES["a format"])
    path = conversions.CASES["a format"][0].path
    plain = fix.replace(f"--- a/{path}", f"--- {path}").replace(f"+++ b/{path}", f"+++ {path}")
    # Neither file is in this kernel's source in this form.
    others = ("tools/testing/selftests/proc/Makefile", "arch/arm64/kernel/vdso.c", "Documentation/filesystems/proc.rst")
    beside = "".join(f"--- a/{other}\n+++ b/{other}\n@@ -1,2 +1,2 @@\n-no\n-yes\n+maybe\n+never\n" for other in others)
    outcome = build(base, plain, beside, check_only=True)
    assert outcome.problem is None, outcome.problem
    assert [function.source for function in outcome.functions] == [path]
    assert [note.code for note in outcome.notes] == ["no-prefix", "not-kernel"]
    assert all(other in outcome.notes[1].message for other in others)
    assert build(base, beside).problem.code == "not-built"
