# SPDX-License-Identifier: GPL-2.0-or-later
"""Build kinds of change by `objects` and `klp` on a small 7.2, compare the replaced functions, and try both modules.

usage: second.py [--stock RELEASE] [--fresh] [KIND ...]

klp-build and create-diff-object write different modules; comparable are the functions that each replaces, with their
positions. The kinds of bug_cases.py are dangerous: their modules are not tried, and both builders may refuse, each in
its own words. With --stock, `objects` alone builds for that distribution's kernel. Writes bench/equal.json beside the
kernels of equal.py and keeps the kinds that were not requested; exits with 1 if builders differ without a known
reason, or a module fails its trial.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bug_cases import CASES
from elivepatch.build.base.store import Base
from elivepatch.build.builders.klp import KlpBuilder
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.builders.select import VERSIONS
from elivepatch.model.build import BuildOutcome
from elivepatch.model.series import PatchSeries
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings
from equal import NAME, keep, kept_rows, try_module
from journal import Journal
from kinds import KINDS
from small_kernels import small_kernel

JOURNAL = Path(__file__).with_name("second.json")
"""Name of the run, whose journal lies beside it; the rows are in equal.json."""
ALL = (*KINDS, *CASES)
STOCK = ("one line", "several functions", "new function", "jump label", "static call", "module", "line shift")
"""Kinds that are also tried on a stock kernel."""
LIVEPATCH = "livepatch"
"""Answer of a builder that made a module."""
UNKNOWN: dict[str, Any] = {
    "functions": [], "same": False, "loaded_and_reverted": False, "problems": [], "seconds": {},
}  # fmt: skip
"""The row of a kind on which the run itself failed."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the builders objects and klp.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(ALL)} (default: all)")
    parser.add_argument("--stock", metavar="RELEASE", help="build for this stock kernel, with objects alone")
    parser.add_argument("--objects", action="store_true", help="keep klp's last answers to the kinds of bug_cases.py")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing an interrupted run")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
    backend = LocalBackend(ServerSettings(cache_dir=cache))
    if arguments.stock:
        base = backend.base(backend.maker().add(arguments.stock).release)
    else:
        base = small_kernel(backend, "7.2")
    wanted = arguments.kinds or (STOCK if arguments.stock else list(ALL))
    if unknown := sorted(set(wanted) - set(ALL)):
        parser.error(f"no such kind: {unknown[0]}")
    journal = Journal.beside(JOURNAL, {"base": base.digest, "builders": VERSIONS}, fresh=arguments.fresh)
    scratch = cache / "tests"
    scratch.mkdir(exist_ok=True)

    def make(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="second-", dir=scratch) as directory:
            Path(directory).chmod(0o755)
            if name in CASES:
                kept = kept_rows(base)[name].get("klp") if arguments.objects else None
                return answers(backend, base, name, Path(directory), kept)
            return compare(backend, base, name, Path(directory), stock=bool(arguments.stock))

    wrong = 0
    for name in wanted:
        row = dict(UNKNOWN if name in KINDS else {"same": False}) | journal.result(name, partial(make, name))
        wrong += not (row["same"] or row.get("reason")) or not row.get("loaded_and_reverted", True)
        keep(base, name, row, ALL)
        found = row["functions"] if name in KINDS else [row.get(one) for one in ("objects", "klp")]
        print(f"{name:18} {'same' if row['same'] else 'DIFFERENT':10} {found} {row.get('seconds')}", flush=True)
        for line in row.get("problems", ()):
            print(f"    {line}")
    journal.finish()
    print(f"{len(wanted) - wrong} of {len(wanted)} kinds on {base.release} are as expected")
    return 1 if wrong else 0


def compare(backend: LocalBackend, base: Base, name: str, work_dir: Path, *, stock: bool) -> dict[str, Any]:
    """Build one kind, with `klp` too unless `stock`, and try the modules; return its row of equal.json."""
    kind = KINDS[name]
    outcomes, seconds = _built(backend, base, kind.series(base.tree), work_dir, ("objects", "klp")[: 1 if stock else 2])
    problems = [
        f"{what}: [{one.problem.code}] {one.problem.message}\n{one.problem.excerpt}"
        for what, one in outcomes.items()
        if one.problem is not None
    ]
    for what, one in outcomes.items():
        if one.module is not None:
            place = work_dir / f"trial-{what}"
            problems += [
                f"{what}: {wrong}" for wrong in try_module(base, kind, one, place, backend.bases.directory.parent)
            ]
    functions = {what: _functions(outcome) for what, outcome in outcomes.items()}
    return {
        "functions": functions["objects"],
        "same": all(one == functions["objects"] for one in functions.values()) and not problems,
        "loaded_and_reverted": not problems,
        "problems": problems,
        "seconds": seconds,
    }


def answers(
    backend: LocalBackend, base: Base, name: str, work_dir: Path, kept: dict[str, Any] | None
) -> dict[str, Any]:
    """Build one kind of bug_cases.py by both builders; return its row of equal.json.

    With `kept`, klp's answer in an earlier row, only `objects` builds. The answers are the same if both builders refuse
    or both replace the same functions.
    """
    case = CASES[name]
    builders = ("objects", "klp") if kept is None else ("objects",)
    outcomes, seconds = _built(backend, base, case.series(base.tree), work_dir, builders)
    found = {
        what: {
            "answer": LIVEPATCH if one.problem is None else one.problem.code,
            "message": "" if one.problem is None else one.problem.message,
            "functions": _functions(one),
            "notes": [note.code for note in one.notes],
        }
        for what, one in outcomes.items()
    }
    found.setdefault("klp", kept or {})
    refused = [one["answer"] != LIVEPATCH for one in found.values()]
    same = all(refused) or (not any(refused) and found["objects"]["functions"] == found["klp"]["functions"])
    return {"thread": case.thread, "same": same, "reason": case.reason} | found | {"seconds": seconds}


def _built(
    backend: LocalBackend, base: Base, series: PatchSeries, work_dir: Path, builders: Sequence[str]
) -> tuple[dict[str, BuildOutcome], dict[str, float]]:
    outcomes: dict[str, BuildOutcome] = {}
    seconds: dict[str, float] = {}
    for what in builders:
        place = work_dir / what
        place.mkdir()
        started = time.monotonic()
        builder = ObjectsBuilder if what == "objects" else KlpBuilder
        made = builder(base=base, toolchains=backend.toolchains, jobs=os.cpu_count() or 1)
        outcomes[what] = made.build(series, name=NAME, work_dir=place)
        seconds[what] = round(time.monotonic() - started, 1)
    return outcomes, seconds


def _functions(outcome: BuildOutcome) -> list[str]:
    return [f"{one.object}:{one.name}" + f",{one.sympos}" * bool(one.sympos) for one in outcome.functions]


if __name__ == "__main__":
    sys.exit(main())
