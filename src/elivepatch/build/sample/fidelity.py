# SPDX-License-Identifier: GPL-2.0-or-later
"""Fidelity of a new base: about 200 functions are rebuilt and compared with the kernel before the base exists.

None may differ. In Debian's 6.1 and 6.12 each of 240,000 functions compares (bench/objects.json), so one that does not
shows another source, configuration or compiler than the kernel's. Each build compares the functions that it replaces,
but the functions and structures that new code uses without replacing them are only as true as the base is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from elivepatch.build.base.store import Base
from elivepatch.build.base.toolchain import Toolchains
from elivepatch.build.objects.compile import Compiler
from elivepatch.build.sample.batch import ObjectBatches
from elivepatch.build.sample.exceptions import UNEXPLAINED, ruled_exceptions
from elivepatch.files.digest import sha256
from elivepatch.kernel.compile_units import Unit, Units
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import VMLINUX

FUNCTIONS = 200
"""Functions that are compared at least, if the kernel has that many in the objects that are tried."""

_ENOUGH = 50
_BATCH = 12
_BATCHES = 4
# If two files of one name hold the same functions, none of them is known; a build refuses them.
_AMBIGUOUS = "duplicate-symbol"


def prove_base(base: Base, toolchains: Toolchains) -> Mapping[str, int]:
    """Return how many `objects` and `functions` of a sample were compared, and how many functions are `identical`.

    `failed` objects do not compile alone.

    Raises EnvironmentFault with the code `base-fidelity` if a function is not the one that the kernel holds, or if too
    few can be compared; with `saved-command-differs` if the command that make saved makes another object than make.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".sample-", dir=base.directory))
    scratch.chmod(0o755)
    try:
        sandbox = toolchains.sandbox(toolchains.of(base))
        compiler = Compiler(base=base, sandbox=sandbox, patch_headers=toolchains.patch_headers())
        batches = ObjectBatches(base, sandbox, compiler, scratch)
        seen = Sample(base.release)
        for units in sampled(base.units, base.build_id):
            seen.add(batches.rows_as_shipped(sorted(units, key=lambda unit: unit.parents)))
            if seen.functions >= FUNCTIONS:
                break
        return seen.judged()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sampled(units: Units, seed: str) -> Iterator[list[Unit]]:
    """Yield batches of objects, half of them of vmlinux while there are modules; `seed` alone decides which."""
    order = sorted(units.by_source.values(), key=lambda unit: sha256(f"{seed} {unit.source}".encode()))
    # Names that begin with a dot are of files that are made when the kernel is linked.
    plain = [unit for unit in order if unit.source.endswith(".c") and not unit.source.startswith(".")]
    kernel = [unit for unit in plain if VMLINUX in unit.parents]
    modules = [unit for unit in plain if VMLINUX not in unit.parents]
    mixed = [unit for unit in chain.from_iterable(zip_longest(kernel, modules)) if unit is not None]
    for start in range(0, min(len(mixed), _BATCH * _BATCHES), _BATCH):
        yield mixed[start : start + _BATCH]


@dataclass(slots=True)
class Sample:
    """Results of a sample of the objects of one kernel."""

    release: str
    objects: int = 0
    functions: int = 0
    commands: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    otherwise: list[str] = field(default_factory=list)

    def add(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Add rows of `ObjectBatches`, each by its source."""
        for source, row in rows.items():
            self.commands += "same" in row
            if row.get("same") is False:
                self.otherwise.append(source)
            if "failed" in row:
                self.failures[source] = str(row["failed"])
                continue
            unlocated = str(row.get("unlocated", ""))
            if unlocated.startswith(_AMBIGUOUS):
                continue
            self.objects += 1
            if unlocated:
                self.functions += int(row["functions"])
                self.differing.append(f"{source}: {unlocated}")
                continue
            other = [f"{source}: {name} ({seen['match']})" for rule, name, seen in ruled_exceptions(row)
                     if rule == UNEXPLAINED]  # fmt: skip
            self.functions += int(row["identical"]) + len(other)
            self.differing += other

    def judged(self) -> dict[str, int]:
        """Return the numbers to keep. Raises as `prove_base` does."""
        if self.otherwise:
            raise EnvironmentFault(
                "saved-command-differs",
                f"For {self.release}, make and the commands that it saves make different objects: "
                f"{_shown(self.otherwise)}.",
                advice="This kernel's build system is not supported yet; report its version.",
                excerpt="\n".join(self.otherwise),
            )
        if self.differing:
            raise EnvironmentFault(
                "base-fidelity",
                f"Of {self.functions} functions that were compiled from the source of {self.release}, "
                f"{len(self.differing)} are not those of the kernel: {_shown(self.differing)}.",
                advice="Give the source with all patches, the configuration and the compiler that this very kernel was "
                "built with.",
                excerpt="\n".join(self.differing),
            )
        if self.functions < _ENOUGH or not self.commands:
            raise EnvironmentFault(
                "base-fidelity",
                f"Only {self.functions} functions of {self.release} could be compared with the kernel; "
                f"{len(self.failures)} objects do not compile.",
                advice="Give the source, the configuration and the compiler that the kernel was built with.",
                excerpt="\n".join(f"{source}: {why}" for source, why in self.failures.items())[:4000],
            )
        return {
            "objects": self.objects,
            "functions": self.functions,
            "identical": self.functions - len(self.differing),
            "failed": len(self.failures),
        }


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
