# SPDX-License-Identifier: GPL-2.0-or-later
"""How well `check` says beforehand what a build comes to: over a folder of real fixes and over patches of our own.

usage: verdicts.py [DIR] [--kernel RELEASE] [--only fixes|own]

DIR holds one .patch a fix (default: ../shared/data/cve-fixes-6.1.176). Each patch is checked, and then built whatever
the check said. Prints precision and recall of "can be a livepatch" and the share of codes that were foretold, lists the
misses, and writes bench/verdicts.json. Ends with status 1 where precision or recall is below 0.95.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import conversions
import refusals
from edits import patch_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.model.build import BuildOutcome
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings

HERE = Path(__file__).parent
RESULT = HERE / "verdicts.json"
GOAL = 0.95
YES = "yes"


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
    parser.add_argument("--only", choices=("fixes", "own"), help="go on from what the last run found of the others")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
    backend = LocalBackend(ServerSettings(cache_dir=cache))
    base = backend.base(
        backend.maker(lambda event: print(event.message, file=sys.stderr)).add(arguments.kernel).release
    )
    entries = [one for one in _earlier() if arguments.only not in {None, one.group}]
    scratch = cache / "scratch"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verdicts-", dir=scratch) as name:
        top = Path(name)
        top.chmod(0o755)
        for number, (group, patch, series) in enumerate(_patches(arguments.dir, base)):
            if arguments.only in {None, group}:
                entry = judged(backend, base, group, patch, series, top / str(number))
                entries.append(entry)
                shown = "" if entry.check == entry.build else f"  MISS: the check said {entry.check}"
                print(
                    f"{entry.group:6} {entry.name[:58]:58} {entry.build:18} {entry.build_s:5.1f} s{shown}", flush=True
                )
    RESULT.write_text(json.dumps([asdict(one) for one in entries], indent=1) + "\n")
    return summary(entries)


def _earlier() -> list[Entry]:
    return [Entry(**one) for one in json.loads(RESULT.read_text())] if RESULT.exists() else []


def _patches(directory: Path, base: Base) -> Iterator[tuple[str, str, PatchSeries]]:
    for path in sorted(directory.glob("*.patch")) if directory.is_dir() else []:
        yield "fixes", path.stem, PatchSeries((SourcePatch(path.name, path.read_bytes()),))
    own = [(name, case.edits) for name, case in refusals.CASES.items() if "6.1" in case.on]
    for name, edits in [*own, *conversions.CASES.items()]:
        yield "own", name, PatchSeries((SourcePatch("own.patch", patch_of(base.tree, *edits).encode("latin-1")),))


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
    for group in ("fixes", "own", "all"):
        seen = [one for one in entries if group in {one.group, "all"}]
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
