# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests, outcomes and reports of jobs as JSON, and the digests by which equal requests are recognised."""

from __future__ import annotations

from dataclasses import asdict
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
from elivepatch.model.errors import Kind
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.service.db.tables import DEFAULT_TENANT
from elivepatch.service.jobs.jobs import Job
from elivepatch.service.store import Store
from elivepatch.trust.statement import StatedTrial

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
    return sha256_json({"tenant": tenant, "build_key": build_key} | request.deciding(Decides.ANSWER))


def livepatch_from(data: dict[str, Any]) -> Livepatch:
    """Return the livepatch from the JSON of `Livepatch.as_dict`."""
    return Livepatch(
        **data
        | {
            "kernel": KernelIdentity(**data["kernel"]),
            "functions": tuple(PatchedFunction(**function) for function in data["functions"]),
            "notes": tuple(Note(**note) for note in data["notes"]),
        }
    )


def stated_trial(report: dict[str, Any] | None) -> StatedTrial | None:
    """Return the outcome of a trial for the signed statement; None for a report that does not know it."""
    if report is None:
        return StatedTrial(outcome="none")
    if "outcome" not in report:  # kept by an older server, to which a missing object was no matter
        return None
    return StatedTrial(outcome=report["outcome"], not_live=tuple(one["object"] for one in report["not_live"]))


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
