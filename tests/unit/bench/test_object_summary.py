# SPDX-License-Identifier: GPL-2.0-or-later
"""Summary of every object: each exception has a rule, and what no rule explains is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bare_base import bare_base

from elivepatch.kernel.compile_units import Unit, Units
from object_summary import amended, summary, unexplained_sources, write_summary

WEAK = {"match": "weak", "section": ".text", "sizes": [5, 27]}
EXIT = {"match": "absent", "section": ".exit.text", "sizes": [5, None]}
DIFFERS = {"match": "differs", "section": ".text", "sizes": [5, 5]}


def row(parent: str = "vmlinux", **changed: Any) -> dict[str, Any]:
    return {"parent": parent, "way": "saved", "same": True, "functions": 3, "identical": 3, "exceptions": {}} | changed


def base(tmp_path: Path) -> Any:
    units = {source: Unit(source, f"{source[:-2]}.o", ("vmlinux",)) for source in ("a.c", "b.c", ".vmlinux.export.c")}
    Units(units, {}).save(tmp_path / "units.json")
    return bare_base(tmp_path)


def test_functions_that_the_kernel_does_not_have_are_named_and_not_counted(tmp_path: Path) -> None:
    found = summary(base(tmp_path), {"a.c": row(identical=1, exceptions={"f": WEAK, "g": EXIT})})
    assert (found["functions"], found["functions_identical"], found["identical_percent"]) == (1, 1, 100.0)
    rules = {one["rule"]: one["functions"] for one in found["exceptions"]}
    assert rules == {"weak": ["a.c: f"], "discarded": ["a.c: g"]}


def test_what_no_rule_explains_is_counted_and_named(tmp_path: Path) -> None:
    found = summary(base(tmp_path), {"a.c": row(parent="m", identical=1, exceptions={"f": DIFFERS, "g": EXIT})})
    assert (found["functions"], found["functions_identical"]) == (3, 1)
    assert [one["rule"] for one in found["exceptions"]] == ["unexplained"]


def test_an_object_that_differs_or_fails_is_named(tmp_path: Path) -> None:
    rows = {
        "a.c": row(same=False),
        "b.c": {"parent": "vmlinux", "way": "none", "failed": "no rule"},
        ".vmlinux.export.c": {"parent": "vmlinux", "way": "none", "failed": "no rule"},
    }
    found = summary(base(tmp_path), rows)
    assert (found["differ"], found["failed"]) == (["a.c"], {"b.c": "no rule"})
    assert [one["rule"] for one in found["exceptions"]] == ["link"]
    assert found["complete"]


def test_the_entry_of_one_kernel_replaces_the_earlier_one_alone(tmp_path: Path) -> None:
    into = tmp_path / "objects.json"
    into.write_text('[{"kernel": "5.4"}, {"kernel": "6.12.117-own", "objects": 7}]')
    assert write_summary(into, base(tmp_path), {"a.c": row(same=False)}, {"sample": 300}) == 1
    assert [one["kernel"] for one in json.loads(into.read_text())] == ["5.4", "6.12.117-own"]
    assert json.loads(into.read_text())[1]["run"] == {"sample": 300}


def test_of_two_weak_functions_the_kernel_has_one(tmp_path: Path) -> None:
    other = {"match": "differs", "section": ".text", "sizes": [10, 233], "weak": True}
    found = summary(base(tmp_path), {"a.c": row(identical=2, exceptions={"f": other})})
    assert (found["functions"], found["functions_identical"]) == (2, 2)
    assert [one["rule"] for one in found["exceptions"]] == ["weak-both"]


def test_sources_that_are_tried_again_replace_their_results_alone(tmp_path: Path) -> None:
    kernel = base(tmp_path)
    before = {
        "a.c": row(identical=1, exceptions={"f": DIFFERS, "g": WEAK}),
        "b.c": row(identical=0, unlocated="symbols: no object"),
    }
    after = {"a.c": row(identical=2, exceptions={"g": WEAK}), "b.c": row(identical=2, exceptions={"h": DIFFERS})}
    entry = summary(kernel, before)
    assert unexplained_sources(entry) == ["a.c", "b.c"]
    assert amended(entry, after) == summary(kernel, after)
    assert amended(entry, {"b.c": after["b.c"]}) == summary(kernel, before | {"b.c": after["b.c"]})
