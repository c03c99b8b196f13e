# SPDX-License-Identifier: GPL-2.0-or-later
"""Summary of a run over every object of a kernel: counts, and the rule that explains each exception."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from elivepatch.build.base.store import Base
from elivepatch.build.sample.exceptions import NOT_SHIPPED, UNEXPLAINED, Row, ruled_exceptions

REASONS = {
    **NOT_SHIPPED,
    "assembler": "Sources in assembler have no block of local symbols; their global functions are compared.",
    "link": "The file is made when the kernel is linked; no object of the source depends on it.",
}


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


def unexplained_sources(entry: Mapping[str, Any]) -> list[str]:
    """Return the sources with an exception that has no rule."""
    groups = [one["functions"] for one in entry["exceptions"] if one["rule"] not in REASONS]
    return sorted({name.partition(": ")[0] for group in groups for name in group})


def amended(entry: Mapping[str, Any], rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return the entry of a kernel with the results of some of its sources replaced by `rows`."""
    functions, identical = entry["functions"], entry["functions_identical"]
    groups = {one["rule"]: list(one["functions"]) for one in entry["exceptions"]}
    for source, row in rows.items():
        names = {rule: [name for name in group if name.partition(": ")[0] == source] for rule, group in groups.items()}
        gone = [name for group in names.values() for name in group]
        # If the source itself is named, it was not found in the kernel, and none of its functions was identical.
        identical += row["identical"] - (0 if source in gone else row["functions"] - len(gone))
        functions += sum(len(names.get(rule, ())) for rule in NOT_SHIPPED)
        groups = {rule: [name for name in group if name not in gone] for rule, group in groups.items()}
    for group in _grouped(rows, {}):
        functions -= len(group["functions"]) * (group["rule"] in NOT_SHIPPED)
        groups.setdefault(group["rule"], []).extend(group["functions"])
    return dict(entry) | {
        "functions": functions,
        "functions_identical": identical,
        "identical_percent": round(100 * identical / functions, 4) if functions else None,
        "exceptions": [
            {"rule": rule, "reason": REASONS.get(rule, rule), "functions": sorted(names)}
            for rule, names in sorted(groups.items())
            if names
        ],
    }


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
        for rule, name, seen in ruled_exceptions(row):
            detail = f" ({seen['match']}, {seen['section']}, {seen['sizes']})" if rule == UNEXPLAINED else ""
            yield rule, f"{source}: {name}{detail}"


def write_summary(into: Path, base: Base, rows: Mapping[str, Row], run: Mapping[str, Any]) -> int:
    """Write the summary of one kernel to the file of all; return how many objects failed or differ.

    `run` says how the objects were chosen.
    """
    return write_entry(into, {**summary(base, rows), "run": dict(run)})


def entry_of(into: Path, base: Base) -> dict[str, Any]:
    """Return the entry of a kernel in the file of all; raises KeyError if it has none."""
    return {str(one["kernel"]): dict(one) for one in json.loads(into.read_text())}[base.release]


def write_entry(into: Path, entry: Mapping[str, Any]) -> int:
    """Write the entry of one kernel to the file of all; return how many objects failed or differ."""
    try:
        entries = [one for one in json.loads(into.read_text()) if one["kernel"] != entry["kernel"]]
    except FileNotFoundError:
        entries = []
    into.write_text(json.dumps(sorted([*entries, entry], key=lambda one: str(one["kernel"])), indent=1) + "\n")
    print(
        f"{entry['kernel']}: {entry['compared']} of {entry['objects']} objects compared, {entry['same']} same, "
        f"{len(entry['differ'])} differ, {len(entry['failed'])} failed; {entry['functions_identical']} of "
        f"{entry['functions']} functions are those of the shipped kernel"
    )
    return len(entry["failed"]) + len(entry["differ"])
