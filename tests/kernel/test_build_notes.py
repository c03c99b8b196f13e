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
