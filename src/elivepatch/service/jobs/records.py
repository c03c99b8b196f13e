# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests, outcomes and reports of jobs as JSON, and the digests by which equal requests are recognised."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from elivepatch.files.digest import sha256_json
from elivepatch.model.build import (
    BuildOutcome,
    BuildRequest,
    Decides,
    Livepatch,
    Note,
    PatchedFunction,
    RequestReference,
    Result,
)
from elivepatch.model.errors import Kind, Problem, TrustError
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.provenance import Material, Origin
from elivepatch.service.db.tables import DEFAULT_TENANT
from elivepatch.service.jobs.jobs import Job, Outcome
from elivepatch.service.store import Store
from elivepatch.trust.attestation import Run, attest
from elivepatch.trust.keys import KEY_BYTES, PublicKey
from elivepatch.trust.statement import Statement

PROOFS = 1
"""Version of what a job keeps for its proof: a job that kept less answers no request."""

# Workers have no key: they make the statement as if they had one, and sign nothing.
_ANY_KEY = PublicKey(bytes(KEY_BYTES))

_OURS = {Kind.ERROR, Kind.TRUST, Kind.HOST}


def keep_request(request: BuildRequest, store: Store) -> dict[str, Any]:
    """Put the patches' bytes into the store and return the request as JSON that names them by digest."""
    for patch in request.series.patches:
        store.put(patch.content, patch.digest)
    return request.to_json()


def request_from(document: dict[str, Any], store: Store) -> BuildRequest:
    """Return a request that a job keeps, with the bytes of its patches from the store."""
    return RequestReference.from_json(document).with_content(store.get)


def build_key(facts: Digest, request: RequestReference) -> Digest:
    """Return the digest of all that decides the module's bytes: `facts` of the base, and fields of the request."""
    return sha256_json({"facts": facts} | request.deciding(Decides.BYTES))


def job_key(build_key: Digest, request: RequestReference, tenant: str = DEFAULT_TENANT) -> Digest:
    """Return the digest of all that decides the answer: the module's bytes and what is done with them.

    The tenant is part of it. A tenant that got the answer to another's request at once would learn of that request.
    """
    fixed = {"tenant": tenant, "build_key": build_key, "proofs": PROOFS}
    return sha256_json(fixed | request.deciding(Decides.ANSWER))


def livepatch_from(data: dict[str, Any]) -> Livepatch:
    """Return the livepatch from the JSON of `Livepatch.as_dict`."""
    return Livepatch(
        **data
        | {
            "kernel": KernelIdentity(**data["kernel"]),
            "functions": tuple(PatchedFunction(**function) for function in data["functions"]),
            "notes": tuple(Note(**note) for note in data["notes"]),
            "origin": _origin(data.get("origin")),
        }
    )


def _origin(data: dict[str, Any] | None) -> Origin | None:
    if data is None:
        return None
    return Origin(**data | {"materials": tuple(Material(**one) for one in data["materials"])})


def statement_of(job: Job, server: PublicKey) -> Statement | None:
    """Return the statement about the livepatch of a job, the same each time; None if it has none to hand out.

    Raises TrustError if an older server kept too little for a proof.
    """
    report = job.report or {}
    if job.module_digest is None or report.get("livepatch") is None or job.started_at is None or job.done_at is None:
        return None
    outputs = {"build.log": job.log_digest, "console.log": job.console_digest}
    run = Run(
        job=job.id,
        started=job.started_at,
        finished=job.done_at,
        outputs={name: digest for name, digest in outputs.items() if digest is not None},
    )
    return attest(
        livepatch_from(report["livepatch"]),
        RequestReference.from_json(job.request),
        run,
        server,
        trial=report.get("trial"),
        rules=[one["rule"] for one in report.get("explained", ())],
    )


def proof_problem(job: Job, outcome: Outcome) -> Problem | None:
    """Return the problem with the proof of a job that is about to end with `outcome`, None if there is none."""
    ended = replace(
        job,
        report=outcome.report,
        module_digest=outcome.module_digest,
        log_digest=outcome.log_digest,
        console_digest=outcome.console_digest,
        done_at=datetime.now(UTC),
    )
    try:
        statement = statement_of(ended, _ANY_KEY)
        if statement is not None:
            statement.encode()
    except TrustError as fault:
        return fault.problem
    return None


def outcome_record(outcome: BuildOutcome) -> dict[str, Any]:
    """Return the outcome of a build as JSON, without its file."""
    return {
        "problem": outcome.problem.as_dict() if outcome.problem is not None else None,
        "livepatch": outcome.livepatch.as_dict() if outcome.livepatch is not None else None,
        "functions": [asdict(function) for function in outcome.functions],
        "notes": [asdict(note) for note in outcome.notes],
        "seconds": dict(outcome.seconds),
        "proposal": asdict(outcome.proposal) if outcome.proposal is not None else None,
        "explained": [asdict(one) for one in outcome.explained],
    }


def result_of(problem: dict[str, Any] | None) -> Result:
    """Return the result of a job with this problem; the kind of the problem decides it."""
    if problem is None:
        return Result.SUCCESS
    return Result.ERROR if Kind(problem["kind"]) in _OURS else Result.FAILURE


def report_of(job: Job) -> dict[str, Any]:
    """Return the report of a done job."""
    kept: dict[str, Any] = job.report or {}
    return {
        "id": job.id,
        "status": job.status.value,
        "result": job.result.value if job.result is not None else None,
        "kernel": job.release,
        "build_id": job.kernel_build_id,
        "functions": kept.get("functions", []),
        "problem": kept.get("problem"),
        "notes": kept.get("notes", []),
        "livepatch": kept.get("livepatch"),
        "module_sha256": job.module_digest,
        "seconds": kept.get("seconds", {}),
        "trial": kept.get("trial"),
        "proposal": kept.get("proposal"),
        "explained": kept.get("explained", []),
        "base": kept.get("base"),
    }
