# SPDX-License-Identifier: GPL-2.0-or-later
"""Build kinds of change by the builders `objects` and `reference` on a small custom 6.12, compare and try the modules.

usage: equal.py [--fresh] [KIND ...]

The first of all kinds is built from clean by `reference`, the others above its kept tree. Writes bench/equal.json, in
which kinds that were not asked for, and the kernels of second.py, stay as they were. An interrupted run continues
(journal.py); --fresh starts over. Ends with 1 if a pair differs or does not pass its trial, or if the run itself failed
on a kind.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.builders.reference import ReferenceBuilder
from elivepatch.build.builders.select import VERSIONS
from elivepatch.build.checks.equality import differences, read_facts
from elivepatch.model.build import BuildOutcome
from elivepatch.model.kernel import VMLINUX
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial
from journal import Journal
from kinds import KINDS, Kind
from small_kernels import small_kernel

HERE = Path(__file__).parent
BASE_PATCH = HERE.parent / "tests/kernel/data/cmdline-base.patch"
NAME = "livepatch_equal"
RESULTS = HERE / "equal.json"
CLEAN = next(iter(KINDS))
UNKNOWN: dict[str, Any] = {"functions": [], "equal": False, "loaded_and_reverted": False, "seconds": {}}
"""The row of a kind on which the run itself failed."""


def own_kernel(backend: LocalBackend) -> Base:
    """Return the small 6.12 with a patch of its operator's, which the test suite builds too."""
    return small_kernel(backend, "6.12", BASE_PATCH, suffix="-own")


@dataclass(slots=True)
class Pair:
    """Outcomes of two builders for one kind; `differing` and `problems` are empty if all is well."""

    objects: BuildOutcome
    reference: BuildOutcome
    seconds: dict[str, float]
    differing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def modules(self) -> list[Path]:
        return [one.module for one in (self.objects, self.reference) if one.module is not None]


def build_pair(backend: LocalBackend, base: Base, kind: Kind, work_dir: Path, *, clean: bool = False) -> Pair:
    """Build a kind by both builders below `work_dir` and compare; with `clean` nothing of an earlier build is used."""
    series, outcomes, seconds = kind.series(base.tree), {}, {}
    common: dict[str, Any] = {"base": base, "toolchains": backend.toolchains, "jobs": os.cpu_count() or 1}
    builders: dict[str, ObjectsBuilder | ReferenceBuilder] = {
        "objects": ObjectsBuilder(**common),
        "reference": ReferenceBuilder(**common, clean=clean),
    }
    for name, builder in builders.items():
        place = work_dir / name
        place.mkdir(mode=0o755)
        started = time.monotonic()
        outcomes[name] = builder.build(series, name=NAME, work_dir=place)
        seconds[name] = round(time.monotonic() - started, 1)
    pair = Pair(outcomes["objects"], outcomes["reference"], seconds)
    for name, outcome in outcomes.items():
        if outcome.problem is not None:
            pair.problems.append(
                f"{name}: [{outcome.problem.code}] {outcome.problem.message}\n{outcome.problem.excerpt}"
            )
    if len(pair.modules) == len(outcomes):
        one, other = (read_facts(path, base.struct_sizes) for path in pair.modules)
        pair.differing = differences(one, other)
        if pair.objects.functions != pair.reference.functions:
            pair.problems.append("The builders do not name the same functions.")
    return pair


def try_module(base: Base, kind: Kind, outcome: BuildOutcome, work_dir: Path, cache_dir: Path) -> list[str]:
    """Load, revert and load the module again in a VM; return what is wrong."""
    if outcome.module is None:
        return ["trial: the builder made no module"]
    report = run_trial(
        kernel=guest_kernel(base),
        livepatch=outcome.module,
        livepatch_name=NAME,
        parents=sorted({function.object for function in outcome.functions} - {VMLINUX}),
        expectations=[Expectation.parse(kind.expectation)] if kind.expectation else [],
        work_dir=work_dir,
        cache_dir=cache_dir,
    )
    return [f"trial: [{problem.code}] {problem.message}\n{problem.excerpt}" for problem in report.problems]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the builders objects and reference.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing an interrupted run")
    arguments = parser.parse_args()
    wanted = arguments.kinds or list(KINDS)
    if unknown := sorted(set(wanted) - KINDS.keys()):
        parser.error(f"no such kind: {unknown[0]}")
    cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
    backend = LocalBackend(ServerSettings(cache_dir=cache))
    base = own_kernel(backend)
    scratch = cache / "tests"
    scratch.mkdir(exist_ok=True)
    journal = Journal.beside(RESULTS, {"base": base.digest, "builders": VERSIONS}, fresh=arguments.fresh)

    def make(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="equal-", dir=scratch) as directory:
            Path(directory).chmod(0o755)
            return compare(backend, base, name, Path(directory), clean=name == CLEAN)

    wrong = 0
    for name in wanted:
        row = UNKNOWN | journal.result(name, partial(make, name))
        wrong += not (row["equal"] and row["loaded_and_reverted"])
        keep(base, name, row, KINDS)
    journal.finish()
    print(f"{len(wanted) - wrong} of {len(wanted)} kinds are equal, loaded and reverted")
    return 1 if wrong else 0


def kept_rows(base: Base) -> dict[str, Any]:
    """Return the rows of equal.json for a kernel."""
    known: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return known.get(base.release, {})


def keep(base: Base, name: str, row: dict[str, Any], order: Iterable[str]) -> None:
    """Write a row of equal.json; rows of a kernel are in the given order, rows of other kernels stay."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = kept_rows(base) | {name: row}
    known[base.release] = {one: rows[one] for one in order if one in rows}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


def compare(backend: LocalBackend, base: Base, name: str, work_dir: Path, *, clean: bool) -> dict[str, Any]:
    """Build one kind by both builders and try the modules; return the row of equal.json."""
    kind = KINDS[name]
    pair = build_pair(backend, base, kind, work_dir, clean=clean)
    if not pair.problems:
        for builder, outcome in (("objects", pair.objects), ("reference", pair.reference)):
            wrong = try_module(base, kind, outcome, work_dir / f"trial-{builder}", backend.toolchains.directory.parent)
            pair.problems += [f"{builder}: {one}" for one in wrong]
    for line in (*pair.problems, *pair.differing[:40]):
        print(f"    {line}")
    row: dict[str, Any] = {
        "functions": [f"{one.object}:{one.name}" for one in pair.objects.functions],
        "from_clean": clean,
        "equal": len(pair.modules) == len(pair.seconds) and not pair.differing,
        "loaded_and_reverted": not pair.problems,
        "seconds": pair.seconds,
    }
    print(
        f"{name:18} {'equal' if row['equal'] else 'DIFFERENT':10} {len(row['functions']):3} function(s)  {pair.seconds}"
    )
    sys.stdout.flush()
    return row


if __name__ == "__main__":
    sys.exit(main())
