# SPDX-License-Identifier: GPL-2.0-or-later
"""Build kinds of change by `objects` and `klp` on a small 7.2, compare the replaced functions, and try both modules.

usage: second.py [--stock RELEASE] [--fresh] [KIND ...]

klp-build and create-diff-object write different modules; comparable are the functions that each replaces, with their
positions. With --stock, `objects` alone builds for that distribution's kernel. Writes bench/second.json and keeps the
kinds that were not requested; exits with 1 if builders differ without a known reason, or a module fails its trial.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from elivepatch.build.base.store import Base
from elivepatch.build.builders.klp import KlpBuilder
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.builders.select import VERSIONS
from elivepatch.model.build import BuildOutcome
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings
from equal import NAME, try_module
from journal import Journal
from kinds import KINDS
from small_kernels import small_kernel

RESULTS = Path(__file__).with_name("second.json")
STOCK = ("one line", "several functions", "new function", "jump label", "static call", "module", "line shift")
"""Kinds that are also tried on a stock kernel."""
UNKNOWN: dict[str, Any] = {
    "functions": [], "same": False, "loaded_and_reverted": False, "problems": [], "seconds": {},
}  # fmt: skip
"""The row of a kind on which the run itself failed."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the builders objects and klp.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--stock", metavar="RELEASE", help="build for this stock kernel, with objects alone")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing an interrupted run")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
    backend = LocalBackend(ServerSettings(cache_dir=cache))
    if arguments.stock:
        base = backend.base(backend.maker().add(arguments.stock).release)
    else:
        base = small_kernel(backend, "7.2")
    wanted = arguments.kinds or (STOCK if arguments.stock else list(KINDS))
    if unknown := sorted(set(wanted) - KINDS.keys()):
        parser.error(f"no such kind: {unknown[0]}")
    journal = Journal.beside(RESULTS, {"base": base.digest, "builders": VERSIONS}, fresh=arguments.fresh)
    scratch = cache / "tests"
    scratch.mkdir(exist_ok=True)

    def make(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="second-", dir=scratch) as directory:
            Path(directory).chmod(0o755)
            return compare(backend, base, name, Path(directory), stock=bool(arguments.stock))

    wrong = 0
    for name in wanted:
        row = UNKNOWN | journal.result(name, partial(make, name))
        wrong += not row["same"] or not row["loaded_and_reverted"]
        _keep(base, name, row)
        print(f"{name:18} {'same' if row['same'] else 'DIFFERENT':10} {row['functions']} {row['seconds']}", flush=True)
        for line in row["problems"]:
            print(f"    {line}")
    journal.finish()
    print(f"{len(wanted) - wrong} of {len(wanted)} kinds on {base.release} are as expected")
    return 1 if wrong else 0


def compare(backend: LocalBackend, base: Base, name: str, work_dir: Path, *, stock: bool) -> dict[str, Any]:
    """Build one kind, with `klp` too unless `stock`, and try the modules; return the row of second.json."""
    kind = KINDS[name]
    outcomes: dict[str, BuildOutcome] = {}
    seconds: dict[str, float] = {}
    for what, builder in (("objects", ObjectsBuilder), ("klp", KlpBuilder))[: 1 if stock else 2]:
        place = work_dir / what
        place.mkdir()
        started = time.monotonic()
        made = builder(base=base, toolchains=backend.toolchains, jobs=os.cpu_count() or 1)
        outcomes[what] = made.build(kind.series(base.tree), name=NAME, work_dir=place)
        seconds[what] = round(time.monotonic() - started, 1)
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
    functions = {
        what: [f"{one.object}:{one.name}" + f",{one.sympos}" * bool(one.sympos) for one in outcome.functions]
        for what, outcome in outcomes.items()
    }
    return {
        "functions": functions["objects"],
        "same": all(one == functions["objects"] for one in functions.values()) and not problems,
        "loaded_and_reverted": not problems,
        "problems": problems,
        "seconds": seconds,
    }


def _keep(base: Base, name: str, row: dict[str, Any]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = known.setdefault(base.release, {})
    rows[name] = row
    known[base.release] = {kind: rows[kind] for kind in KINDS if kind in rows}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
