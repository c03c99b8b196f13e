# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes that a kernel's source has already: that is said of a whole change only, and in its place."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import pytest

from elivepatch.build.base.store import Base
from elivepatch.model.build import BuildOutcome
from elivepatch.model.errors import Problem

pytestmark = pytest.mark.kernel

Build = Callable[..., BuildOutcome]
MEMINFO, LOADAVG = "fs/proc/meminfo.c", "fs/proc/loadavg.c"


def diff(path: str, old: str, new: str) -> str:
    assert old != new
    before, after = (text.splitlines(keepends=True) for text in (old, new))
    return "".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"))


class Texts:
    """Patches whose change the source of a base has, lacks, or has in part."""

    def __init__(self, base: Base) -> None:
        self.meminfo, self.loadavg = ((base.tree / path).read_text() for path in (MEMINFO, LOADAVG))
        self.changed = self.meminfo.replace('"Cached:         "', '"CACHED:         "')
        self.missing = diff(MEMINFO, self.meminfo, self.changed)
        self.there = diff(LOADAVG, self.loadavg.replace("/%d %d", "/%d OLD %d"), self.loadavg)

    @property
    def half_of_a_file(self) -> str:
        return diff(MEMINFO, self.meminfo.replace('"VmallocChunk:   "', '"VmallocOld:     "'), self.changed)


def refusal(build: Build, base: Base, *patches: str) -> Problem:
    outcome = build(base, *patches, check_only=True)
    assert outcome.problem is not None
    return outcome.problem


def test_a_change_that_is_there_as_a_whole_is_there(build: Build, base: Base) -> None:
    assert refusal(build, base, Texts(base).there).code == "already-applied"


@pytest.mark.parametrize("order", [1, -1], ids=["the missing file first", "the missing file last"])
def test_a_change_of_which_one_file_is_there_is_not_there(build: Build, base: Base, order: int) -> None:
    """patch(1) changes the other file before it fails, so that the whole change could be taken back afterwards."""
    texts = Texts(base)
    found = refusal(build, base, "".join([texts.missing, texts.there][::order]))
    assert found.code == "does-not-apply"
    assert "which has a part of its change already" in found.message


def test_a_file_of_which_one_hunk_is_there_is_not_there(build: Build, base: Base) -> None:
    assert refusal(build, base, Texts(base).half_of_a_file).code == "does-not-apply"


def test_a_change_that_is_listed_twice_is_not_in_the_source(build: Build, base: Base) -> None:
    texts = Texts(base)
    assert refusal(build, base, texts.missing * 2).code == "does-not-apply"
    found = refusal(build, base, texts.missing, texts.missing)
    assert (found.code, "1.patch" in found.message) == ("patch-repeated", True)


def test_of_a_series_the_patch_that_is_there_is_named(build: Build, base: Base) -> None:
    texts = Texts(base)
    found = refusal(build, base, texts.missing, texts.there)
    assert found.code == "already-applied"
    assert found.message.startswith("1.patch ")
    assert "leave it out of the series" in found.advice


def test_the_same_change_in_another_function_is_not_this_one(build: Build, base: Base) -> None:
    """The hunk names a function that does not have the change; another function of the same file looks as if it had."""
    named = (
        f"--- a/{MEMINFO}\n+++ b/{MEMINFO}\n@@ -20,4 +20,5 @@ void arch_report_meminfo(struct seq_file *m)\n"
        "-\tint pages;\n+\tint lru;\n \n \tsi_meminfo(&i);\n \tsi_swapinfo(&i);\n"
    ).replace("-20,4 +20,5", "-20,4 +20,4")
    found = refusal(build, base, named)
    assert found.code == "does-not-apply"
    assert "in another place" in found.message
