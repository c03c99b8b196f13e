# SPDX-License-Identifier: GPL-2.0-or-later
"""Compile every object of stock kernels in the ways that a build does, and compare the results with the shipped kernel.

usage: every_object.py [RELEASE ...] [--sample N] [--seed N] [--shard I/N] [--jobs N] [--minutes N] [--fresh]
       every_object.py [RELEASE ...] --again

Each object of vmlinux and of the modules is compiled and compared as build/sample/batch.py says.

Writes bench/objects.json: for each kernel `objects, compared, same, differ, failed, functions, functions_identical,
exceptions` and the choice of objects. The journals lie in the cache, below every-object/, and stay there: a larger
sample or a later run continues with what is known. --fresh starts over. --again compiles the objects again whose
exceptions no rule explains, and puts the results into the file. Ends with status 1 if an object failed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock

sys.path.insert(0, str(Path(__file__).parent))

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext, BuildSteps
from elivepatch.build.sample.batch import ObjectBatches
from elivepatch.kernel.compile_units import Unit
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings
from journal import Journal
from object_summary import amended, entry_of, unexplained_sources, write_entry, write_summary

RELEASES = ("6.1.0-50-cloud-amd64", "6.12.118+deb13-cloud-amd64")
BATCH = 72
COMPARISON = 4
"""Raised when a row says something else than before of the same objects."""


def chosen(base: Base, *, sample: int, seed: int, shard: tuple[int, int]) -> list[Unit]:
    """Return the objects of a run, those of one parent side by side: its symbols are read once."""
    units = [base.units.by_source[source] for source in sorted(base.units.by_source)]
    if sample:
        # A larger sample of the same seed holds the smaller one.
        random.Random(seed).shuffle(units)  # noqa: S311 - a sample, no secret
        units = units[:sample]
    index, count = shard
    units = [unit for number, unit in enumerate(units) if number % count == index - 1]
    return sorted(units, key=lambda unit: (unit.parents, unit.source))


def batches(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Yield the units in groups that share a start of make."""
    remaining = iter(units)
    while group := list(islice(remaining, BATCH)):
        yield group


def run(base: Base, backend: LocalBackend, cache: Path, arguments: argparse.Namespace, until: float) -> Journal:
    """Compile and compare the chosen objects of one kernel; return the journal with the rows."""
    place = cache / "every-object"
    place.mkdir(exist_ok=True)
    facts = {"base": base.digest, "flags": base.section_flags, "comparison": COMPARISON}
    journal = Journal.beside(place / f"{base.release}.json", facts, fresh=arguments.fresh)
    units = chosen(base, sample=arguments.sample, seed=arguments.seed, shard=arguments.shard)
    todo = [unit for unit in units if unit.source not in journal.rows]
    lock, started = Lock(), time.monotonic()

    def one(every: ObjectBatches, group: list[Unit]) -> None:
        if time.monotonic() > until:
            return
        rows = every.rows(group)
        with lock:
            for source, row in rows.items():
                journal.record(source, row)
            done = sum(unit.source in journal.rows for unit in units)
            print(f"{base.release}: {done} of {len(units)}, {time.monotonic() - started:.0f} s", flush=True)

    with opened(base, backend, cache) as every, ThreadPoolExecutor(max_workers=arguments.jobs) as pool:
        for pending in [pool.submit(one, every, group) for group in batches(todo)]:
            pending.result()
    return journal


@contextmanager
def opened(base: Base, backend: LocalBackend, cache: Path) -> Iterator[ObjectBatches]:
    """Yield a run over objects of a kernel; its files are gone afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix="objects-", dir=cache / "tests"))
    scratch.chmod(0o755)
    steps = BuildSteps.within(BuildContext(base=base, toolchains=backend.toolchains, jobs=1))
    try:
        yield ObjectBatches(base, steps.sandbox(), steps.compiler(), scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def again(base: Base, backend: LocalBackend, cache: Path, into: Path) -> int:
    """Compile the objects with unexplained exceptions again and amend their kernel's entry; return as `write_entry`."""
    entry = entry_of(into, base)
    sources = unexplained_sources(entry)
    if not sources:
        return write_entry(into, entry)
    with opened(base, backend, cache) as every:
        rows = every.rows([base.units.by_source[source] for source in sources])
    return write_entry(into, amended(entry, rows))


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    return int(index), int(count)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare every object of stock kernels with the shipped kernel.")
    parser.add_argument("releases", nargs="*", default=RELEASES)
    parser.add_argument("--sample", type=int, default=0, help="that many objects, chosen by --seed; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shard", type=_shard, default=(1, 1), help="I/N: each Nth object from the Ith on")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=0, help="start no more batches after that time")
    parser.add_argument("--fresh", action="store_true", help="start over instead of continuing an interrupted run")
    parser.add_argument("--again", action="store_true", help="only the objects with exceptions that no rule explains")
    parser.add_argument("--into", type=Path, default=Path(__file__).with_name("objects.json"))
    arguments = parser.parse_args()
    os.nice(19)
    cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
    backend = LocalBackend(ServerSettings(cache_dir=cache))
    until = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")
    failed = 0
    for release in arguments.releases:
        base = backend.base(release)
        if arguments.again:
            failed += again(base, backend, cache, arguments.into)
            continue
        journal = run(base, backend, cache, arguments, until)
        choice = {
            "sample": arguments.sample or "all",
            "seed": arguments.seed,
            "shard": "{}/{}".format(*arguments.shard),
        }
        failed += write_summary(arguments.into, base, journal.rows, choice)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
