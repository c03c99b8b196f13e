# SPDX-License-Identifier: GPL-2.0-or-later
"""The stored comparison of builders has an answer of each to every dangerous kind, and explains each difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import equal
from bug_cases import CASES

RESULTS = json.loads(Path(equal.__file__).with_name("equal.json").read_text())
(SMALL,) = (rows for release, rows in RESULTS.items() if release.startswith("7.2") and release.endswith("-small"))


@pytest.mark.parametrize("name", CASES)
def test_both_builders_were_asked_about_each_kind(name: str) -> None:
    row = SMALL[name]
    assert row["objects"]["answer"]
    assert row["klp"]["answer"]
    assert row["same"] or row["reason"]


def test_neither_builder_says_that_a_dangerous_kind_changes_nothing() -> None:
    harmless = {"member renamed", "static of another type"}
    silent = {
        name
        for name in CASES
        if name in SMALL
        for one in ("objects", "klp")
        if SMALL[name][one]["answer"] == "no-change"
    }
    assert silent <= harmless
