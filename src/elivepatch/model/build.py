# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of a builder and what it answers."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from elivepatch.model.errors import Problem
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.series import BasePatch, PatchSeries
from elivepatch.model.trial import Expectation


class Status(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


class Result(enum.StrEnum):
    """How a done job ended. `failure` is the patch's fault, `error` is ours."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """A series for one kernel, and what the trial is to see.

    `release` is resolved to a base by the server. With `trial` false the module is built and checked but not booted.
    With `check_only` the answer is the verdict: nothing is linked. A livepatch with `replace` takes all earlier ones
    away when it is enabled (Documentation/livepatch/cumulative-patches.rst); without, it stands beside them.
    """

    release: str
    series: PatchSeries
    expectations: tuple[Expectation, ...] = ()
    trial: bool = True
    check_only: bool = False
    replace: bool = True


    `base_patches` are those that the running kernel was built with, as far as the host knows them; a base that was made
    with others is refused. They decide nothing else.
@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedFunction:
    """One function that a livepatch replaces.

    `object` is `vmlinux` or a module's name as the kernel knows it; `sympos` counts from 1 among the symbols of that
    name in that object, 0 where the name is unique (Documentation/livepatch/livepatch.rst, `old_sympos`).
    """

    object: str
    name: str
    sympos: int
    base_patches: tuple[BasePatch, ...] = ()
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a person should know about a build that succeeded."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Livepatch:
    """A built module and where it came from."""

    name: str
    digest: Digest
    size_bytes: int
    kernel: KernelIdentity
    build_key: Digest
    functions: tuple[PatchedFunction, ...]
    notes: tuple[Note, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutcome:
    """How a build ended: either a livepatch with its module file, or a problem.

    `module` is a file in the work directory that the caller gave; it lives as long as that does. After a check
    (`BuildRequest.check_only`) that found nothing against the series, `livepatch`, `module` and `problem` are all None.
    """

    livepatch: Livepatch | None = None
    module: Path | None = None
    problem: Problem | None = None
    functions: tuple[PatchedFunction, ...] = ()
    notes: tuple[Note, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
