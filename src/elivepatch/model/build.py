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


class Builder(enum.StrEnum):
    """What makes a livepatch of a series (docs/adr/0009): from single objects, or from the whole kernel built anew."""

    OBJECTS = "objects"
    KLP = "klp"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """A series for one kernel, and what the trial is to see.

    `release` is resolved to a base by the server. With `trial` false the module is built and checked but not booted.
    With `check_only` the answer is the verdict: nothing is linked. A livepatch with `replace` takes all earlier ones
    away when it is enabled (Documentation/livepatch/cumulative-patches.rst); without, it stands beside them.
    With `rewrite`, a check of a series that cannot be a livepatch also proposes a changed one that could.
    With `paranoid` a second builder makes the livepatch too, and only where both made the same is it given.
    `base_patches` are those that the running kernel was built with, as far as the host knows them; a base that was made
    with others is refused. They decide nothing else.
    """

    release: str
    series: PatchSeries
    expectations: tuple[Expectation, ...] = ()
    trial: bool = True
    check_only: bool = False
    replace: bool = True
    rewrite: bool = False
    builder: Builder = Builder.OBJECTS
    paranoid: bool = False
    base_patches: tuple[BasePatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedFunction:
    """One function that a livepatch replaces.

    `object` is `vmlinux` or a module's name as the kernel knows it; `sympos` counts from 1 among the symbols of that
    name in that object, 0 where the name is unique (Documentation/livepatch/livepatch.rst, `old_sympos`).
    """

    object: str
    name: str
    sympos: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something a person should know about a build that succeeded."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteStep:
    """One change of a series that a rewrite proposes: in which file, what, and why nothing is lost by it.

    `code` is that of the problem that it takes away.
    """

    code: str
    path: str
    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A series that could be a livepatch where the one that was sent could not.

    `patch` is one unified diff in place of the whole series, empty where none was found; `steps` say what was changed,
    or was tried before it turned out not to do; `refusal` says in one sentence why there is no patch.
    """

    patch: str
    steps: tuple[RewriteStep, ...] = ()
    refusal: str = ""


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
    proposal: Proposal | None = None
