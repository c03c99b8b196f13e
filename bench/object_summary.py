# SPDX-License-Identifier: GPL-2.0-or-later
"""Summary of a run over every object of a kernel: counts, and the rule that explains each exception."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from elivepatch.build.base.store import Base

Row = Mapping[str, Any]

_DISCARDED = (".exit.text", ".discard", ".init.discard", ".meminit.text", ".cpuinit.text")
NOT_SHIPPED = {
    "weak": "The function is weak, and the kernel has the function of another object in its place.",
    "discarded": "The linker leaves out the section of the function, which nothing in vmlinux calls.",
}
"""Rules for functions that the object has and the shipped kernel does not have: there is nothing to compare."""

REASONS = {
    **NOT_SHIPPED,
    "assembler": "Sources in assembler have no block of local symbols; their global functions are compared.",
    "link": "The file is made when the kernel is linked; no object of the source depends on it.",
}
UNEXPLAINED = "unexplained"


def summary(base: Base, rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return the entry of one kernel in objects.json."""
    failed = {source: row["failed"] for source, row in rows.items() if "failed" in row}
    explained = {source: rule for source in failed if (rule := rule_of_object(source)) is not None}
    exceptions = _grouped(rows, explained)
    missing = sum(len(one["functions"]) for one in exceptions if one["rule"] in NOT_SHIPPED)
    functions = sum(row.get("functions", 0) for row in rows.values()) - missing
    identical = sum(row.get("identical", 0) for row in rows.values())
    return {
        "kernel": base.release,
        "objects": len(base.units.by_source),
        "compared": len(rows),
        "complete": len(rows) == len(base.units.by_source),
        "same": sum(bool(row.get("same")) for row in rows.values()),
        "differ": sorted(source for source, row in rows.items() if row.get("same") is False),
        "failed": {source: text for source, text in sorted(failed.items()) if source not in explained},
        "after_make": sorted(source for source, row in rows.items() if row["way"] == "make"),
        "functions": functions,
        "functions_identical": identical,
        "identical_percent": round(100 * identical / functions, 4) if functions else None,
        "by_parent": dict(Counter("vmlinux" if row["parent"] == "vmlinux" else "modules" for row in rows.values())),
        "exceptions": exceptions,
    }


def rule_of_object(source: str) -> str | None:
    """Return the rule that explains why an object cannot be made by itself, None if none does."""
    return "link" if source.startswith(".vmlinux.") else None


def rule_of_function(seen: Row, *, in_vmlinux: bool) -> str:
    """Return the rule that explains why a function is not the shipped one."""
    if seen["match"] == "weak":
        return "weak"
    if seen["match"] == "absent" and in_vmlinux and seen["section"].startswith(_DISCARDED):
        return "discarded"
    return UNEXPLAINED


def _grouped(rows: Mapping[str, Row], explained: Mapping[str, str]) -> list[dict[str, Any]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for rule, name in _exceptions(rows):
        groups[rule].append(name)
    for source, rule in explained.items():
        groups[rule].append(source)
    return [
        {"rule": rule, "reason": REASONS.get(rule, rule), "functions": sorted(names)}
        for rule, names in sorted(groups.items())
    ]


def _exceptions(rows: Mapping[str, Row]) -> Iterator[tuple[str, str]]:
    for source, row in rows.items():
        if "unlocated" in row:
            yield row["unlocated"].partition(":")[0], source
        for name, seen in row.get("exceptions", {}).items():
            rule = rule_of_function(seen, in_vmlinux=row["parent"] == "vmlinux")
            detail = f" ({seen['match']}, {seen['section']}, {seen['sizes']})" if rule == UNEXPLAINED else ""
            yield rule, f"{source}: {name}{detail}"


def write_summary(into: Path, base: Base, rows: Mapping[str, Row], run: Mapping[str, Any]) -> int:
    """Write the summary of one kernel to the file of all; return how many objects failed or differ.

    `run` says how the objects were chosen.
    """
    try:
        entries = [one for one in json.loads(into.read_text()) if one["kernel"] != base.release]
    except FileNotFoundError:
        entries = []
    entry = {**summary(base, rows), "run": dict(run)}
    into.write_text(json.dumps(sorted([*entries, entry], key=lambda one: str(one["kernel"])), indent=1) + "\n")
    print(
        f"{base.release}: {entry['compared']} of {entry['objects']} objects compared, {entry['same']} same, "
        f"{len(entry['differ'])} differ, {len(entry['failed'])} failed; {entry['functions_identical']} of "
        f"{entry['functions']} functions are those of the shipped kernel"
    )
    return len(entry["failed"]) + len(entry["differ"])
