# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the time of each stage of a build; each figure is the median of several runs on one machine.

usage: bench.py [--runs N] [--kernel RELEASE] [ROW ...]

Rows: base.prepare (packages already downloaded), objects.first (client's request to saved module, object never compiled
before), objects.warm (its originals cached), objects.floor (the bare compile of the changed object and the module
link), trial; and those of whole.py: objects.small, klp.cold, klp.warm, klp.floor, reference.cold, reference.warm.
Writes bench/results.json and keeps the rows that were not requested; `run` names the rows measured together.
measurement.py defines memory and bytes read; plot.py draws the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess  # noqa: TID251 - the benchmark plays the user, who starts programs
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))

from demo import serving
from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.stock import StockMaker, find_packages
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.objects.compile import Original
from elivepatch.build.sample.fidelity import prove_base
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial
from measurement import Measured
from whole import whole_rows

HERE = Path(__file__).parent
PATCH = (HERE.parent / "demo/patches/vmlinux-meminfo.patch").read_text()
SOURCE = "fs/proc/meminfo.c"
OWN_ROWS = ("base.prepare", "objects.first", "objects.warm", "objects.floor", "trial")
WHOLE_ROWS = ("objects.small", "klp.cold", "klp.warm", "klp.floor", "reference.cold", "reference.warm")
ROWS = (*OWN_ROWS, *WHOLE_ROWS)
RESULTS = HERE / "results.json"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure where the time goes.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kernel", default="6.1.0-50-cloud-amd64")
    arguments = parser.parse_args()
    rows = arguments.rows or list(ROWS)
    if unknown := sorted(set(rows) - set(ROWS)):
        parser.error(f"no such row: {unknown[0]}")
    bench = Bench(arguments.kernel, arguments.runs)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    machine = {
        "cpus": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "bench_kernel": bench.base.release,
    }
    results: list[dict[str, Any]] = []
    for name in (name for name in ROWS if name in rows):
        results.append(bench.row(name) | {"run": started})
        RESULTS.write_text(json.dumps({"machine": machine, "rows": _merged(results)}, indent=1) + "\n")
    medians = {row["name"]: row["median_s"] for row in results}
    if {"objects.warm", "objects.floor"} <= medians.keys():
        print(f"objects.warm is {medians['objects.warm'] / medians['objects.floor']:.2f} x the floor")
    return 0


class Bench:
    """A kernel and the parts of it that the rows need."""

    def __init__(self, kernel: str, runs: int) -> None:
        self.cache = Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch"))
        self.backend = LocalBackend(ServerSettings(cache_dir=self.cache))
        self.base: Base = self.backend.base(self.backend.maker().add(kernel).release)
        self.runs = runs
        self.stamp = time.time_ns()
        self.scratch = self.cache / "scratch"
        self.scratch.mkdir(exist_ok=True)

    def row(self, name: str) -> dict[str, Any]:
        """Measure one row, print it and return it."""
        row = self._whole(name) if name in WHOLE_ROWS else self._own(name)
        size = f"{row['peak_rss_mib']:7.1f} MiB resident, {row['read_mib']:8.1f} MiB read"
        figures = f"median {row['median_s']:7.2f} s of {len(row['runs'])}  {size}  {row['runs']}"
        print(f"{name:14} {figures}")
        sys.stdout.flush()
        return row

    def _whole(self, name: str) -> dict[str, Any]:
        whole, measure = whole_rows(self.backend)[name]
        return measure(self.runs).row(name, whole.base.release)

    def _own(self, name: str) -> dict[str, Any]:
        measure: Callable[[ExitStack, Measured], None] = {
            "base.prepare": self.prepare,
            "objects.first": lambda stack, measured: self.requests(stack, measured, forget=True),
            "objects.warm": lambda stack, measured: self.requests(stack, measured, forget=False),
            "objects.floor": self.floor,
            "trial": self.trial,
        }[name]
        measured = Measured()
        with ExitStack() as stack:
            measure(stack, measured)
        return measured.row(name, self.base.release)

    def prepare(self, stack: ExitStack, measured: Measured) -> None:
        """Make a base of packages that are already downloaded."""
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=self.scratch)))
        directory.chmod(0o755)
        for number in range(self.runs):
            bases = Bases(directory / str(number))
            context = BaseContext(self.backend.toolchains, bases, os.cpu_count() or 1, prove_base)
            archive = self.backend.archive
            maker = StockMaker(archive, context)
            # A finished base needs its packages no more, so they are gone.
            archive.download(find_packages(self.base.release, archive).all())
            with measured.run():
                maker.add(self.base.release)
            shutil.rmtree(bases.directory)

    def requests(self, stack: ExitStack, measured: Measured, *, forget: bool) -> None:
        """Time the client's command from its start to the saved module."""
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elivepatch-bench-")))
        url, token = stack.enter_context(serving(work / "state", str(self.cache)))
        # The first request also makes the server read the kernel's symbols; later requests use them.
        for number in range(-1, self.runs):
            if forget:
                original = Original.of(self.base, self.base.units.by_source[SOURCE].target)
                for cached in (original.directory, original.plain_directory):
                    shutil.rmtree(cached, ignore_errors=True)
            patch = work / "a.patch"
            patch.write_text(self.patch(number, forget=forget))
            client = Path(sys.executable).parent / "elivepatch"
            command: list[str | Path] = [client, "build", patch, "--kernel", self.base.release,
                       "-u", url, "--token-file", token, "-o", work / "a.ko", "--no-trial"]  # fmt: skip
            with measured.run() if number >= 0 else nullcontext():
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    def patch(self, number: int, *, forget: bool) -> str:
        """Return a patch that no run has sent before."""
        return PATCH.replace("VMALLOCCHUNK", f"V{self.stamp:x}{number + 1}{int(forget)}")

    def _work_dir(self, stack: ExitStack) -> Path:
        work_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=self.scratch)))
        work_dir.chmod(0o755)
        return work_dir

    def _builder(self) -> ObjectsBuilder:
        return ObjectsBuilder(base=self.base, toolchains=self.backend.toolchains, jobs=os.cpu_count() or 1)

    def _build(self, work_dir: Path, name: str) -> Path:
        outcome = self._builder().build(
            PatchSeries((SourcePatch("bench.patch", PATCH.encode()),)), name=name, work_dir=work_dir
        )
        if outcome.module is None:
            sys.exit(f"the benchmark's patch does not build: {outcome.problem}")
        return outcome.module

    def floor(self, stack: ExitStack, measured: Measured) -> None:
        """Time the lower bound of every builder: one compile of the changed object, and the link of the module."""
        compiler, linker = self._builder().compiler(), self._builder().linker()
        unit = self.base.units.by_source[SOURCE]
        built = self._work_dir(stack)
        self._build(built, "livepatch_bench")
        for _ in range(self.runs):
            work_dir = self._work_dir(stack)
            (work_dir / "object").mkdir()
            with measured.run():
                compiler.patched(unit, compiler.original(unit), built / "layer", work_dir / "object")
                linker.link([built / "object-0/diff.o"], name="livepatch_bench", work_dir=work_dir)

    def trial(self, stack: ExitStack, measured: Measured) -> None:
        """Try one livepatch, from the start of the VM to its verdict."""
        module = self._build(self._work_dir(stack), "livepatch_bench")
        for _ in range(self.runs):
            with measured.run():
                report = run_trial(
                    kernel=guest_kernel(self.base),
                    livepatch=module,
                    livepatch_name="livepatch_bench",
                    parents=(),
                    expectations=(Expectation.parse("/proc/meminfo =~ VMALLOCCHUNK"),),
                    work_dir=self._work_dir(stack) / "trial",
                    cache_dir=self.cache,
                )
            if not report.passed:
                sys.exit(f"the benchmark's trial failed: {report.problems}")


def _merged(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the file, with the newly measured rows in place of the old."""
    known = {row["name"]: row for row in json.loads(RESULTS.read_text())["rows"]} if RESULTS.exists() else {}
    known |= {row["name"]: row for row in measured}
    return [known[name] for name in ROWS if name in known]


if __name__ == "__main__":
    sys.exit(main())
