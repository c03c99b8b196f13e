# SPDX-License-Identifier: GPL-2.0-or-later
"""Build requests, and the results of builds."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from elivepatch.model.errors import Problem
from elivepatch.model.kernel import VMLINUX, Digest, KernelIdentity, parse_release
from elivepatch.model.provenance import Origin
from elivepatch.model.series import BasePatch, PatchReference, PatchSeries, SeriesReference, SourcePatch
from elivepatch.model.trial import Expectation, check_expectations


class Status(enum.StrEnum):
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


class Result(enum.StrEnum):
    """Result of a done job. `failure` is the patch's fault, `error` is the server's."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    CANCELLED = "cancelled"


COPIES_LIMIT = 9
"""Largest `copy` of a build request."""


class Builder(enum.StrEnum):
    """Builder of a livepatch (docs/adr/0009): from single objects, or from a build of the whole kernel."""

    OBJECTS = "objects"
    KLP = "klp"
    REFERENCE = "reference"


class Decides(enum.StrEnum):
    """Effect of a field of a build request on the digests that name answers.

    `bytes`: the module's bytes depend on it, so the build key holds it, and the job key by way of the build key.
    `answer`: the job's answer depends on it, so the job key alone holds it. `base`: it selects the base, whose own
    digest the build key holds. `nothing`: a request with a wrong value is refused before there is a job.
    """

    BYTES = "bytes"
    ANSWER = "answer"
    BASE = "base"
    NOTHING = "nothing"


def _decides(what: Decides) -> dict[str, Decides]:
    return {"decides": what}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReference:
    """A build request that names its source patches by their digests. Each field declares what it decides.

    The server finds the base for `release`. Without `trial` the module is built and checked but not booted. With
    `thorough` the series is also tried on a debugging kernel, if the server has one of the same source. With
    `check_only` the answer is the verdict: nothing is linked. A livepatch with `replace` replaces all earlier ones
    when it is enabled (atomic replace, Documentation/livepatch/cumulative-patches.rst); without, it is added to them.
    With `rewrite`, a check of a series that cannot be a livepatch also proposes a changed one that can.
    With `paranoid` a second builder makes the livepatch too; it is served only if both made the same.
    `copy` makes another module of the same series, with a name of its own: a host that keeps earlier ones in its memory
    until a reboot cannot load a module of their name.
    `base_patches` are those that the running kernel was built with, as far as the host knows them; a base that was made
    with others is refused.
    """

    release: str = field(metadata=_decides(Decides.BASE))
    series: SeriesReference = field(metadata=_decides(Decides.BYTES))
    expectations: tuple[Expectation, ...] = field(default=(), metadata=_decides(Decides.ANSWER))
    trial: bool = field(default=True, metadata=_decides(Decides.ANSWER))
    thorough: bool = field(default=False, metadata=_decides(Decides.ANSWER))
    check_only: bool = field(default=False, metadata=_decides(Decides.ANSWER))
    replace: bool = field(default=True, metadata=_decides(Decides.BYTES))
    rewrite: bool = field(default=False, metadata=_decides(Decides.ANSWER))
    builder: Builder = field(default=Builder.OBJECTS, metadata=_decides(Decides.BYTES))
    paranoid: bool = field(default=False, metadata=_decides(Decides.BYTES))
    copy: int = field(default=0, metadata=_decides(Decides.BYTES))
    base_patches: tuple[BasePatch, ...] = field(default=(), metadata=_decides(Decides.NOTHING))

    def to_json(self) -> dict[str, Any]:
        """Return the request as the JSON of the API (docs/api.md): the one spelling of it, sent and kept."""
        return {
            "kernel": self.release,
            "patches": [{"name": patch.name, "sha256": patch.digest} for patch in self.series.patches],
            "expectations": [expectation.as_dict() for expectation in self.expectations],
            "trial": self.trial,
            "thorough": self.thorough,
            "check_only": self.check_only,
            "replace": self.replace,
            "rewrite": self.rewrite,
            "builder": self.builder.value,
            "paranoid": self.paranoid,
            "copy": self.copy,
            "base_patches": [{"name": patch.name, "sha256": patch.digest} for patch in self.base_patches],
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> RequestReference:
        """Return the request that `to_json` wrote, or that an earlier version kept.

        Raises UsageError if the release or an expectation is malformed; KeyError, TypeError or ValueError for a
        document of another shape.
        """
        return RequestReference(
            # Older servers kept `release` for `kernel`, and lacked the fields that are looked up by `get`.
            release=parse_release(document["kernel"] if "kernel" in document else document["release"]),
            series=SeriesReference(patches_of(document)),
            expectations=check_expectations(tuple(Expectation.from_dict(one) for one in document["expectations"])),
            trial=document["trial"],
            thorough=document.get("thorough", False),
            check_only=document["check_only"],
            replace=document["replace"],
            rewrite=document.get("rewrite", False),
            builder=Builder(document.get("builder", Builder.OBJECTS)),
            paranoid=document.get("paranoid", False),
            copy=document.get("copy", 0),
            base_patches=tuple(BasePatch(one["name"], one["sha256"]) for one in document.get("base_patches", ())),
        )

    def with_content(self, read: Callable[[Digest], bytes]) -> BuildRequest:
        """Return the request with the bytes of its patches, which `read` returns for a digest."""
        others = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "series"}
        patches = tuple(SourcePatch(patch.name, read(patch.digest)) for patch in self.series.patches)
        return BuildRequest(series=PatchSeries(patches), **others)

    def deciding(self, what: Decides) -> dict[str, Any]:
        """Return the values of the fields that decide `what`, as JSON by field name; patches count by their bytes.

        Raises TypeError if a field does not declare what it decides.
        """
        return {one.name: _key_value(getattr(self, one.name)) for one in fields(self) if _declared(one) is what}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest(RequestReference):
    """A build request with the bytes of its source patches: all that a builder and a trial need."""

    series: PatchSeries = field(metadata=_decides(Decides.BYTES))


def patches_of(document: Mapping[str, Any]) -> tuple[PatchReference, ...]:
    """Return the patches of a request in JSON. Older servers kept `digest` for `sha256`."""
    return tuple(
        PatchReference(one["name"], one["sha256"] if "sha256" in one else one["digest"])
        for one in document.get("patches", ())
    )


def _declared(one: Field[Any]) -> Decides:
    if "decides" not in one.metadata:
        message = f"the field {one.name} of a build request does not declare what it decides"
        raise TypeError(message)
    declared: Decides = one.metadata["decides"]
    return declared


def _key_value(value: Any) -> Any:
    if isinstance(value, SeriesReference):
        return [patch.digest for patch in value.patches]
    if isinstance(value, tuple):
        return [one.as_dict() if isinstance(one, Expectation) else asdict(one) for one in value]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedFunction:
    """One function that a livepatch replaces.

    `object` is `vmlinux` or a module's name as the kernel knows it; `sympos` counts from 1 among the symbols of that
    name in that object, 0 if the name is unique (Documentation/livepatch/livepatch.rst, `old_sympos`).
    """

    object: str
    name: str
    sympos: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A fact that a person should know about a build that succeeded."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A difference of `source`'s objects that is not in the livepatch, and the rule by which nothing is lost.

    The rules are `model.codes.RULES`; `what` names the functions, data or sections.
    """

    rule: str
    source: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteStep:
    """One change of a series that a rewrite proposes: the file, the change, and the reason why nothing is lost.

    `code` is the code of the problem that the change removes.
    """

    code: str
    path: str
    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A changed series that can be a livepatch, proposed because the one that was sent cannot.

    `patch` is one unified diff in place of the whole series, empty if none was found; `steps` are the changes, or those
    that were tried without success; `refusal` gives in one sentence the reason why there is no patch.
    """

    patch: str
    steps: tuple[RewriteStep, ...] = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Livepatch:
    """A built module and its origin, None if a server kept the livepatch before there were proofs."""

    name: str
    digest: Digest
    size_bytes: int
    kernel: KernelIdentity
    build_key: Digest
    functions: tuple[PatchedFunction, ...]
    notes: tuple[Note, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    origin: Origin | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules whose functions it replaces, by name."""
        return tuple(sorted({function.object for function in self.functions} - {VMLINUX}))

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutcome:
    """Result of a build: either a livepatch with its module file, or a problem.

    `module` is a file in the caller's work directory and exists as long as that does. After a check
    (`BuildRequest.check_only`) that found nothing against the series, `livepatch`, `module` and `problem` are all None.
    `builders` are those that made the module, each with its version; `checks` has for each check that the module passed
    (`model.provenance.CHECKS`) the number of things that it looked at.
    """

    livepatch: Livepatch | None = None
    module: Path | None = None
    problem: Problem | None = None
    functions: tuple[PatchedFunction, ...] = ()
    notes: tuple[Note, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    proposal: Proposal | None = None
    explained: tuple[Explained, ...] = ()
    builders: dict[str, int] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
