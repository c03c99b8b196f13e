# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of threats names tests that exist: a control without a test is no control."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
ROWS = [
    line
    for line in (TOP / "docs/threat-model.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| threat", "| ---"))
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_threat_has_a_test_that_exists(row: str) -> None:
    named = NAMED.findall(row.split("|")[3])
    assert named
    for file, test in named:
        source = (TOP / file).read_text(encoding="utf-8")
        assert f"def {test or 'test_'}" in source, (file, test)


def test_the_page_says_what_is_not_defended() -> None:
    page = (TOP / "docs/threat-model.md").read_text(encoding="utf-8")
    assert "hostile author whose patch is approved" in page.partition("## Not defended")[2]
