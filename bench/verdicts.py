# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparison of what `check` predicts with what a build comes to: over a folder of real fixes and patches of our own.

usage: verdicts.py [DIR] [--kernel RELEASE] [--only fixes|own|bugs] [--fresh]

DIR holds one .patch for each fix (default: ../shared/data/cve-fixes-6.1.176). bug-inputs beside it and bug_cases.py
have the kinds of change that livepatch tools lost. Each patch is checked, and then built, even if the check refused it.
Prints precision and recall of "can be a livepatch" and the share of codes that were predicted, lists the misses, and
writes bench/verdicts.json. An interrupted run continues (journal.py); --fresh starts over. Ends with status 1 if
precision or recall is below 0.98, or if a patch ended in a fault of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import conversions
import refusals
from edits import patch_of

from bug_cases import CASES
from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.builders.select import VERSIONS
from elivepatch.model.build import BuildOutcome
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings
from journal import Journal

HERE = Path(__file__).parent
RESULT = HERE / "verdicts.json"
GROUPS = ("fixes", "own", "bugs")
"""Real fixes; small changes of our own; kinds of change that were reported in public against livepatch tools."""
GOAL = 0.98
YES = "yes"
FAULT = "fault"
"""The run itself failed on a patch, which says nothing about the check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One patch: what the check said and what came of the build, each a code or `yes`."""

    name: str
    group: str
    check: str
    build: str
    check_s: float
    build_s: float
    message: str


def main() -> int:
    """Check and build all patches; print and write what was seen."""
    parser = argparse.ArgumentParser(description="Compare verdicts with what builds come to.")
    parser.add_argument("dir", nargs="?", type=Path, default=HERE.parent.parent / "shared/data/cve-fixes-6.1.176")
    parser.add_argument("--kernel", default="6.1.0-50-cloud-amd64")
    parser.add_argument("--only", choices=GROUPS, help="keep the last run's results of the other groups")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing an interrupted run")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
    backend = LocalBackend(ServerSettings(cache_dir=cache))
    base = backend.base(
        backend.maker(lambda event: print(event.message, file=sys.stderr)).add(arguments.kernel).release
    )
    entries = [one for one in _earlier() if arguments.only not in {None, one.group}]
    scratch = cache / "scratch"
    scratch.mkdir(exist_ok=True)
    facts = {"base": base.digest, "builders": VERSIONS, "helper": backend.toolchains.helper().digest}
    journal = Journal.beside(RESULT, facts, fresh=arguments.fresh)
    for group, patch, series in _patches(arguments.dir, base):
        if arguments.only in {None, group}:
            entry = _journaled(journal, backend, base, group, patch, series)
            entries.append(entry)
            shown = "" if entry.check == entry.build else f"  MISS: the check said {entry.check}"
            print(f"{entry.group:6} {entry.name[:58]:58} {entry.build:18} {entry.build_s:5.1f} s{shown}", flush=True)
    RESULT.write_text(json.dumps([asdict(one) for one in entries], indent=1) + "\n")
    status = summary(entries)
    return status if journal.finish() else 1


def _journaled(
    journal: Journal, backend: LocalBackend, base: Base, group: str, name: str, series: PatchSeries
) -> Entry:
    """Return the entry of a series from the journal, or by checking and building it now."""

    def make() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(
            prefix="verdicts-", dir=backend.bases.directory.parent / "scratch"
        ) as work_dir:
            Path(work_dir).chmod(0o755)
            return asdict(judged(backend, base, group, name, series, Path(work_dir)))

    row = journal.result(f"{group} {name} {series.digest[:16]}", make)
    if "fault" in row:
        return Entry(name=name, group=group, check=FAULT, build=FAULT, check_s=0.0, build_s=0.0, message=row["fault"])
    return Entry(**row)


def _earlier() -> list[Entry]:
    return [Entry(**one) for one in json.loads(RESULT.read_text())] if RESULT.exists() else []


def _patches(directory: Path, base: Base) -> Iterator[tuple[str, str, PatchSeries]]:
    for path in sorted(directory.glob("*.patch")) if directory.is_dir() else []:
        yield "fixes", path.stem, PatchSeries((SourcePatch(path.name, path.read_bytes()),))
    own = [(name, case.edits) for name, case in refusals.CASES.items() if "6.1" in case.on]
    for name, edits in [*own, *conversions.CASES.items()]:
        yield "own", name, PatchSeries((SourcePatch("own.patch", patch_of(base.tree, *edits).encode("latin-1")),))
    for path in sorted((directory.parent / "bug-inputs").glob("*.patch")):
        yield "bugs", path.stem, PatchSeries((SourcePatch(path.name, path.read_bytes()),))
    for name, case in CASES.items():
        try:
            series = case.series(base.tree)
        except (AssertionError, ValueError):
            continue  # the text of this kernel is another
        yield "bugs", name, series


def judged(backend: LocalBackend, base: Base, group: str, name: str, series: PatchSeries, work_dir: Path) -> Entry:
    """Return what check and build say about a series, each in a builder of its own."""
    outcomes: list[BuildOutcome] = []
    for check_only in (True, False):
        place = work_dir / ("check" if check_only else "build")
        place.mkdir(parents=True)
        builder = ObjectsBuilder(base=base, toolchains=backend.toolchains, jobs=os.cpu_count() or 1)
        outcomes.append(builder.build(series, name="livepatch_verdict", work_dir=place, check_only=check_only))
    check, build = outcomes
    return Entry(
        name=name,
        group=group,
        check=YES if check.problem is None else check.problem.code,
        build=YES if build.module is not None else build.problem.code if build.problem is not None else "nothing",
        check_s=round(sum(check.seconds.values()), 2),
        build_s=round(sum(build.seconds.values()), 2),
        message="" if build.problem is None else build.problem.message,
    )


def summary(entries: list[Entry]) -> int:
    """Print the figures and return the exit status."""
    print()
    worst = 1.0
    for group in (*GROUPS, "all"):
        seen = [one for one in entries if group in {one.group, "all"} and one.build != FAULT]
        if not seen:
            continue
        promised, kept = {one.name for one in seen if one.check == YES}, {one.name for one in seen if one.build == YES}
        right = len(promised & kept)
        precision = right / len(promised) if promised else 1.0
        recall = right / len(kept) if kept else 1.0
        codes = sum(one.check == one.build for one in seen)
        worst = min(worst, precision, recall)
        print(
            f"{group:6} {len(seen):3} patches, {len(kept)} livepatches: "
            f"precision {precision:.3f}, recall {recall:.3f}, code foretold for {codes} ({codes / len(seen):.3f})"
        )
    for one in entries:
        if one.check != one.build:
            print(f"miss: {one.name}: the check said {one.check}, the build {one.build}: {one.message}")
    return 0 if worst >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
