# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of bench.py whose builders compile whole kernels: small ones of our own configuration.

cold: a livepatch from a base without the builder's built tree; warm: with that tree. floor: the lower bound of every
builder on that kernel, the bare compile of the changed object and the module link.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from elivepatch.build.base.store import Base
from elivepatch.build.builders.klp import KlpBuilder
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.build.builders.reference import ReferenceBuilder
from elivepatch.model.build import BuildOutcome
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.jobs.local_backend import LocalBackend
from equal import own_kernel
from kinds import KINDS
from measurement import Measured
from small_kernels import small_kernel

NAME = "livepatch_bench"


@dataclass(frozen=True)
class WholeKernel:
    """A builder on a small kernel; `kept` is the directory in the base that holds the builder's built tree."""

    backend: LocalBackend
    kernel: Callable[[LocalBackend], Base]
    builder: type[KlpBuilder | ReferenceBuilder]
    kept: str

    @cached_property
    def base(self) -> Base:
        """Base of the kernel; it is built if it is missing."""
        return self.kernel(self.backend)

    def cold(self, runs: int) -> Measured:
        """Build without a kept tree, each time."""
        measured = Measured()
        for number in range(runs):
            shutil.rmtree(self.base.directory / self.kept, ignore_errors=True)
            self._time(measured, self.builder, number)
        return measured

    def warm(self, runs: int) -> Measured:
        """Build with the kept tree, another patch each time."""
        self._time(Measured(), self.builder, -1)
        measured = Measured()
        for number in range(runs):
            self._time(measured, self.builder, number)
        return measured

    def objects(self, runs: int) -> Measured:
        """Build the same patches on the same kernel with the builder `objects`."""
        self._time(Measured(), ObjectsBuilder, -1)
        measured = Measured()
        for number in range(runs):
            self._time(measured, ObjectsBuilder, number)
        return measured

    def floor(self, runs: int) -> Measured:
        """Compile the changed object and link the module, nothing else."""
        measured = Measured()
        builder = self._made(ObjectsBuilder)
        compiler, linker = builder.compiler(), builder.linker()
        unit = self.base.units.by_source[KINDS["one line"].edits[0].path]
        with ExitStack() as stack:
            built = self._work_dir(stack)
            _build(builder, self._patch(0), built)
            for _ in range(runs):
                work_dir = self._work_dir(stack)
                (work_dir / "object").mkdir()
                with measured.run():
                    compiler.patched(unit, compiler.original(unit), built / "layer", work_dir / "object")
                    linker.link([built / "object-0/diff.o"], name=NAME, work_dir=work_dir)
        return measured

    def _time(self, measured: Measured, builder: Callable[..., Any], number: int) -> None:
        with ExitStack() as stack:
            work_dir = self._work_dir(stack)
            made = self._made(builder)
            with measured.run():
                outcome = _build(made, self._patch(number), work_dir)
            measured.stages.append(outcome.seconds)

    def _made(self, builder: Callable[..., Any]) -> Any:
        return builder(base=self.base, toolchains=self.backend.toolchains, jobs=os.cpu_count() or 1)

    def _patch(self, number: int) -> PatchSeries:
        """Return a patch that no other run uses."""
        text = KINDS["one line"].patch(self.base.tree).replace('"load %lu', f'"load{number + 1} %lu')
        return PatchSeries((SourcePatch("bench.patch", text.encode()),))

    def _work_dir(self, stack: ExitStack) -> Path:
        scratch = self.base.directory.parents[1] / "scratch"
        scratch.mkdir(exist_ok=True)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=scratch)))
        directory.chmod(0o755)
        return directory


def whole_rows(backend: LocalBackend) -> dict[str, tuple[WholeKernel, Callable[[int], Measured]]]:
    """Return the function that measures each row, given the number of runs, and the kernel of the row.

    The rows objects.small and klp.* use the same kernel and patch.
    """
    klp = WholeKernel(backend, lambda backend: small_kernel(backend, "7.2"), KlpBuilder, "klp")
    reference = WholeKernel(backend, own_kernel, ReferenceBuilder, "reference")
    return {
        "objects.small": (klp, klp.objects),
        "klp.cold": (klp, klp.cold),
        "klp.warm": (klp, klp.warm),
        "klp.floor": (klp, klp.floor),
        "reference.cold": (reference, reference.cold),
        "reference.warm": (reference, reference.warm),
    }


def _build(builder: Any, series: PatchSeries, work_dir: Path) -> BuildOutcome:
    outcome: BuildOutcome = builder.build(series, name=NAME, work_dir=work_dir)
    if outcome.module is None:
        sys.exit(f"the benchmark's patch does not build: {outcome.problem}")
    return outcome
