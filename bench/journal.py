# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals of long runs: one JSON line for each entry as it comes, so that an interrupted run continues.

A run of 427 fixes once died at the 340th of a limit on processes, and all its results were lost. The journal lies
beside the run's final JSON file until every entry has a result without a fault; a run that finds one skips the
entries in it. Its first line holds the facts that decide the results, such as the base's digest: a journal with other
facts is started over, because its results would answer another question.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(slots=True)
class Journal:
    """Results of the entries of one run. `rows` are the results so far, by entry."""

    path: Path
    rows: dict[str, Row] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def beside(cls, result: Path, facts: Mapping[str, Any], *, fresh: bool = False) -> Journal:
        """Open the journal beside the run's result file, or start one; with `fresh` an earlier one is removed."""
        journal = cls(result.with_suffix(".partial.jsonl"))
        head = json.dumps(dict(facts), sort_keys=True)
        lines = [] if fresh else journal._lines()
        if lines[:1] == [head]:
            for line in lines[1:]:
                one = json.loads(line)
                journal.rows[one["entry"]] = one["row"]
            if journal.rows:
                print(f"continuing: {len(journal.rows)} entries are in {journal.path.name}; --fresh starts over")
        # Written again: the last line of an interrupted run may be torn.
        journal.path.write_text("".join(f"{line}\n" for line in (lines if journal.rows else [head])))
        return journal

    def result(self, entry: str, make: Callable[[], Row]) -> Row:
        """Return the result of an entry: from the journal, else from `make`, which is recorded at once.

        What `make` raises becomes the entry's own result, `{"fault": ...}`. It is not recorded, so that the next run
        tries the entry again.
        """
        if entry in self.rows:
            return self.rows[entry]
        try:
            row = make()
        except Exception as error:  # noqa: BLE001 - a fault of one entry, of any kind, must not end the run
            self.faults.append(entry)
            print(f"{entry}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return {"fault": f"{type(error).__name__}: {error}"}
        self.record(entry, row)
        return row

    def record(self, entry: str, row: Row) -> None:
        """Add the result of an entry; it is on the disk when this returns."""
        self.rows[entry] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"entry": entry, "row": row}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> bool:
        """Remove the journal and return True, unless an entry ended in a fault: then it stays for the next run."""
        if self.faults:
            shown = ", ".join(self.faults[:10])
            print(f"{len(self.faults)} entries ended in a fault of the run itself, which a rerun tries again: {shown}")
            return False
        self.path.unlink(missing_ok=True)
        return True

    def _lines(self) -> list[str]:
        """Return the complete lines of the file; a torn one at the end is left out."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        lines = text.split("\n")[:-1]
        while lines and not _is_json(lines[-1]):
            lines.pop()
        return lines


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
