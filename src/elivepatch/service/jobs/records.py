# SPDX-License-Identifier: GPL-2.0-or-later
"""Between the model and JSON: requests as jobs keep them, what a build and a trial answered, the report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from elivepatch.model.build import Builder, BuildOutcome, BuildRequest, Livepatch, Note, PatchedFunction, Result
from elivepatch.model.errors import Kind
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.service.db.tables import DEFAULT_TENANT
from elivepatch.service.jobs.jobs import Job
from elivepatch.service.store import Store

_OURS = {Kind.ERROR, Kind.TRUST, Kind.HOST}


def keep_request(request: BuildRequest, store: Store) -> dict[str, Any]:
    """Put the patches' bytes into the store and return the request as JSON that names them by digest."""
    return {
        "release": request.release,
        "patches": [{"name": patch.name, "digest": store.put(patch.content)} for patch in request.series.patches],
        "expectations": [asdict(expectation) for expectation in request.expectations],
        "trial": request.trial,
        "check_only": request.check_only,
        "replace": request.replace,
        "builder": request.builder.value,
        "paranoid": request.paranoid,
        "rewrite": request.rewrite,
    }


def request_from(data: dict[str, Any], store: Store) -> BuildRequest:
    """Return the request that `keep_request` kept."""
    return BuildRequest(
        release=data["release"],
        series=PatchSeries(
            tuple(SourcePatch(patch["name"], store.get(Digest(patch["digest"]))) for patch in data["patches"])
        ),
        expectations=tuple(Expectation(**expectation) for expectation in data["expectations"]),
        trial=data["trial"],
        check_only=data["check_only"],
        replace=data["replace"],
        # Jobs that were kept before there was a choice have neither.
        builder=Builder(data.get("builder", Builder.OBJECTS)),
        paranoid=data.get("paranoid", False),
        rewrite=data.get("rewrite", False),
    )


def job_key(build_key: Digest, request: BuildRequest, tenant: str = DEFAULT_TENANT) -> Digest:
    """Return the digest of all that the answer depends on: the module's bytes and what is done with them.

    And of the tenant: one that got the answer to another's request at once would learn that it was asked.
    """
    depends = {
        "tenant": tenant,
        "build_key": build_key,
        "expectations": [asdict(expectation) for expectation in request.expectations],
        "trial": request.trial,
        "check_only": request.check_only,
        **({"rewrite": True} if request.rewrite else {}),
    }
    return Digest(hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest())


def livepatch_from(data: dict[str, Any]) -> Livepatch:
    """Return the livepatch that `Livepatch.as_dict` described."""
    return Livepatch(
        **data
        | {
            "kernel": KernelIdentity(**data["kernel"]),
            "functions": tuple(PatchedFunction(**function) for function in data["functions"]),
            "notes": tuple(Note(**note) for note in data["notes"]),
        }
    )


def outcome_record(outcome: BuildOutcome) -> dict[str, Any]:
    """Return what a build answered as JSON, without its file."""
    return {
        "problem": outcome.problem.as_dict() if outcome.problem is not None else None,
        "livepatch": outcome.livepatch.as_dict() if outcome.livepatch is not None else None,
        "functions": [asdict(function) for function in outcome.functions],
        "notes": [asdict(note) for note in outcome.notes],
        "seconds": dict(outcome.seconds),
        "proposal": asdict(outcome.proposal) if outcome.proposal is not None else None,
    }


def result_of(problem: dict[str, Any] | None) -> Result:
    """Return the result that a job with this problem has: whose fault it is decides."""
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
    }
