# SPDX-License-Identifier: GPL-2.0-or-later
"""Reproof: another server builds a livepatch again from the materials of its proof, and the bytes are compared.

The other server is not given the module. So equal bytes show that it made them itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.follow import JobFollower
from elivepatch.files.digest import sha256
from elivepatch.model.build import Builder, RequestReference
from elivepatch.model.errors import BuildStopped, EnvironmentFault, TrustError, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event, Progress
from elivepatch.model.provenance import SOURCE_PATCH, Material
from elivepatch.model.series import BasePatch, PatchReference, SeriesReference, SourcePatch
from elivepatch.trust.envelope import verify_envelope
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.statement import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproof:
    """Result of a reproof. `differences` are the materials that the two servers do not share, if they are known.

    `why_unknown` is the reason if they are not.
    """

    job: str
    expected: Digest
    found: Digest
    differences: tuple[str, ...] = ()
    why_unknown: str = ""

    @property
    def identical(self) -> bool:
        """True if both servers made the same bytes."""
        return self.expected == self.found

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping (schemas/reprove.json)."""
        return {
            "job": self.job,
            "identical": self.identical,
            "expected": self.expected,
            "found": self.found,
            "differences": list(self.differences),
            "why_unknown": self.why_unknown,
        }


def reprove(
    server: ServerClient,
    statement: Statement,
    sources: Sequence[SourcePatch],
    pinned: Sequence[PublicKey],
    progress: Progress,
) -> Reproof:
    """Have `server` build the livepatch of a verified statement again, and compare.

    `sources` are patches of its series; the server must have the others. Raises UsageError if one is missing, or if
    the server is the one that built it; EnvironmentFault if the server has another kernel of this release, or none;
    and BuildStopped with the server's problem.
    """
    if server.public_key().fingerprint == statement.builder:
        raise UsageError(
            "same-server",
            f"The server at {server.url} is the one that built {statement.name}: it has the answer already.",
            advice="Name another server with --url; one that signs with a key of its own.",
        )
    _require_kernel(server, statement)
    _send(server, statement, sources)
    follower = JobFollower(progress)
    job = server.submit_reference(_request(statement))
    progress(Event(stage="job", message=f"{job} at {server.url}"))
    report = follower.follow(server, job)
    if report.problem is not None:
        raise BuildStopped(report.problem)
    found = sha256(follower.retry(lambda: server.download(job, "module")))
    made = Reproof(job=job, expected=statement.digest, found=found)
    if made.identical:
        return made
    try:
        other = verify_envelope(follower.retry(lambda: server.proof(job)), pinned)
    except TrustError as fault:
        return replace(made, why_unknown=fault.problem.message)
    return replace(made, differences=tuple(_differences(statement.materials, other.materials)))


def _require_kernel(server: ServerClient, statement: Statement) -> None:
    known = [kernel for kernel in server.kernels() if kernel.release == statement.release]
    if not known:
        raise EnvironmentFault(
            "kernel-unknown",
            f"The server at {server.url} has no base of {statement.release}, so it cannot build this again.",
            advice="Add the kernel there with `elivepatch-server kernel add`, from the materials that the proof names.",
        )
    if known[0].build_id != statement.build_id:
        raise EnvironmentFault(
            "other-build",
            f"The server at {server.url} has another build of {statement.release} than the one in the proof.",
            advice="Give that server the packages or the sources that the proof names (`elivepatch verify`).",
        )


def _send(server: ServerClient, statement: Statement, sources: Sequence[SourcePatch]) -> None:
    """Upload the given patches; raises UsageError if one is not of the series, or if one is missing at the server."""
    given = {patch.digest: patch.content for patch in sources}
    for patch in sources:
        if patch.digest not in statement.series:
            raise UsageError(
                "other-series",
                f"{patch.name} is not one of the patches that {statement.name} was built from.",
                advice="`elivepatch verify` lists them with their SHA-256; give exactly these bytes.",
            )
    server.upload(given)
    missing = server.missing([digest for digest in statement.series if digest not in given])
    if missing:
        names = {one["sha256"]: one["name"] for one in statement.parameters["patches"]}
        raise UsageError(
            "source-missing",
            f"The server at {server.url} lacks {names[missing[0]]}, a patch of {statement.name}.",
            advice=f"Name its file on the command line: the one with the SHA-256 {missing[0]}.",
        )


def _request(statement: Statement) -> RequestReference:
    """Return the request in a statement, without its expectations: they do not change the module's bytes."""
    asked = statement.parameters
    return RequestReference(
        release=statement.release,
        series=SeriesReference(tuple(PatchReference(one["name"], Digest(one["sha256"])) for one in asked["patches"])),
        trial=asked["trial"],
        replace=asked["replace"],
        builder=Builder(asked["builder"]),
        paranoid=asked["paranoid"],
        copy=asked["copy"],
        base_patches=tuple(BasePatch(one["name"], Digest(one["sha256"])) for one in asked["base_patches"]),
    )


def _differences(ours: Sequence[Material], theirs: Sequence[Material]) -> list[str]:
    """Return the materials that only one of two builds had, as `kind name`."""
    mine, its = ({(one.kind, one.name, one.digest) for one in side} for side in (ours, theirs))
    return [
        f"{kind} {name}: {digest} {where}"
        for where, only in (("in the proof only", mine - its), ("at this server only", its - mine))
        for kind, name, digest in sorted(only)
        if kind != SOURCE_PATCH
    ]
