# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes for builds: submit, follow, download the result, cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from elivepatch.model.build import RequestReference, Status
from elivepatch.model.series import PatchReference, SourcePatch
from elivepatch.patterns import require_patterns
from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.http import files
from elivepatch.service.http.bodies import described, parsed
from elivepatch.service.http.dependencies import (
    FinishedJob,
    Services,
    ServicesDep,
    VisibleJob,
    error_responses,
    require_right,
    requires,
    visible,
)
from elivepatch.service.http.wire import BuildAnswer, BuildBody, PageAnswer, ReportAnswer, check_size
from elivepatch.service.jobs.jobs import Job, NewJob
from elivepatch.service.jobs.records import job_key, report_of, statement_of
from elivepatch.service.jobs.steps import cancelled
from elivepatch.service.printable_log import plain_strings
from elivepatch.trust.envelope import SUFFIX, sign_proof
from elivepatch.trust.statement import Statement

_PROOF_TYPE = "application/jsonl"
_EVENTS_AT_ONCE = 200
_MAX_NUMBER = 2**31 - 1
_SUBMISSIONS_AT_ONCE = 8
# Longest time until a stream sees an event that the notifier missed.
_POLL_S = 10.0

router = APIRouter()


def _file(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"content": {media_type: {}}, "description": "The file; Repr-Digest holds its SHA-256."},
        206: {"content": {media_type: {}}, "description": "The range that the request names."},
        304: {"description": "If-None-Match names this file."},
        **error_responses(404, 409, 410, 416),
    }


@router.post(
    "/builds",
    status_code=202,
    responses=error_responses(404, 413)
    | {200: {"model": BuildAnswer, "description": "A job that answers this request already."}},
    openapi_extra=described(BuildBody),
)
async def submit(
    request: Request, services: ServicesDep, account: Annotated[Account, requires(Right.ASK)], response: Response
) -> BuildAnswer:
    """Submit a build request. An equal request gets the same job, unless that ended with an error of the server."""
    job, new = await to_thread.run_sync(_submit, await request.body(), services, account, limiter=_submissions())
    if not new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/builds/{job.id}"
    return BuildAnswer.of(job)


@cache
def _submissions() -> CapacityLimiter:
    """Return what lets few submissions be looked at at once: they must not use up the threads of all other routes."""
    return CapacityLimiter(_SUBMISSIONS_AT_ONCE)


def _submit(body: bytes, services: Services, account: Account) -> tuple[Job, bool]:
    sent = parsed(BuildBody, body)
    patches = sent.source_patches()
    request = sent.request(patches)
    if sent.fresh:
        require_right(account, Right.FRESH)
    if not request.trial and not request.check_only:
        require_right(account, Right.UNTRIED)
    if not account.may(Right.ANY_PATCH):
        services.allowed_patches.check(request.series)
    require_patterns([one.pattern for one in request.expectations if one.predicate is None])
    by_digest = {patch.digest for patch in patches if isinstance(patch, PatchReference)}
    check_size(patches, services.resources.patches.use(account.tenant, by_digest))
    content = [patch for patch in patches if isinstance(patch, SourcePatch)]
    return submit_request(services, account, request, content, automatic=sent.priority == "automatic", fresh=sent.fresh)


def submit_request(
    services: Services,
    account: Account,
    request: RequestReference,
    content: Sequence[SourcePatch],
    *,
    automatic: bool = False,
    fresh: bool = False,
) -> tuple[Job, bool]:
    """Return the job that answers `request` and whether it is new; a new one is queued and noted in the audit log.

    `content` are those patches of the request that the store may lack.
    """
    resources = services.resources
    route = services.catalogue.route(request)
    key = job_key(route.build_key, request, account.tenant)
    known = resources.jobs.answering(key)
    if known is not None and fresh and known.status is Status.DONE:
        resources.jobs.forget(known.id)
        known = None
    if known is None:
        services.capacity.check(account.tenant)
        for patch in content:
            resources.store.put(patch.content, patch.digest)
        submission = NewJob(
            job_key=key,
            build_key=route.build_key,
            release=request.release,
            kernel_build_id=route.kernel_build_id,
            request=request.to_json(),
            route=route.route,
            tenant=account.tenant,
            asked_by=account.name,
            automatic=automatic,
        )
        job, new = resources.jobs.submit(submission)
    else:
        job, new = known, False
    services.metrics.asked(new=new)
    if new:
        resources.audit.note(who=account.name, tenant=account.tenant, action="build.ask", subject=job.id)
        resources.engine.submit(job.id, route=job.route, place=job.place)
    return job, new


@router.get("/builds", responses=error_responses(404))
def page(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.FOLLOW)],
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(pattern="^[0-9a-f]{16}$")] = None,
) -> PageAnswer:
    """List jobs, newest first."""
    below = visible(services, account, before).number if before is not None else None
    found = services.resources.jobs.page(
        limit=limit + 1,
        before=below,
        tenant=None if account.may(Right.EVERY_TENANT) else account.tenant,
        release=account.kernel or None,
    )
    return PageAnswer(
        builds=[BuildAnswer.of(job) for job in found[:limit]],
        next=found[limit - 1].id if len(found) > limit else None,
    )


@router.get("/builds/{build}", responses=error_responses(404))
async def status(job: VisibleJob) -> BuildAnswer:
    """Return the state of a job."""
    return BuildAnswer.of(job)


@router.delete("/builds/{build}", responses=error_responses(404))
def cancel(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.CANCEL)],
    build: Annotated[str, Path(pattern="^[0-9a-f]{16}$")],
) -> BuildAnswer:
    """Cancel a job, for all clients that wait for it. A job that is done does not change."""
    job = visible(services, account, build)
    now = services.resources.jobs.cancel(job.id, cancelled())
    if job.status is not Status.DONE:
        services.resources.audit.note(who=account.name, tenant=account.tenant, action="build.cancel", subject=job.id)
    if services.worker is not None:
        # Workers in other processes see it in the database within a second.
        services.worker.steps.cancel(job.id)
    return BuildAnswer.of(now or job)


@router.get(
    "/builds/{build}/events",
    response_class=Response,
    responses=error_responses(404)
    | {200: {"content": {"text/event-stream": {}}, "description": "Server-sent events, until the job is done."}},
)
async def events(
    job: VisibleJob,
    services: ServicesDep,
    last_event_id: Annotated[int, Header(ge=0, le=_MAX_NUMBER)] = 0,
) -> Response:
    """Stream the events of a job, from its first or from after Last-Event-ID, until it is done.

    FastAPI's own events need a task group for each stream, which ends with an error if the client disconnects.
    """
    return StreamingResponse(
        _stream(services, job.id, last_event_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _stream(services: Services, job: str, last: int) -> AsyncIterator[str]:
    yield ": welcome\n\n"
    with services.notifier.listening(job) as changed:
        while not services.stopping.is_set():
            changed.clear()
            # Read before the events: if the job is done by now, the events that follow are all that it has.
            current = await run_in_threadpool(services.resources.jobs.get, job)
            while found := await run_in_threadpool(
                services.resources.jobs.events_after, job, last, limit=_EVENTS_AT_ONCE
            ):
                for event in found:
                    last = event.id
                    yield f"event: {event.kind}\ndata: {json.dumps(plain_strings(event.data))}\nid: {event.id}\n\n"
            if current is None or current.status is Status.DONE:
                return
            try:
                await asyncio.wait_for(changed.wait(), _POLL_S)
            except TimeoutError:
                # A proxy between the two must not take the silence for the end of the stream.
                yield ": still here\n\n"


@router.get("/builds/{build}/report", responses=error_responses(404, 409))
async def report(job: FinishedJob) -> ReportAnswer:
    """Return the report of a done job."""
    found = report_of(job)
    # A proposal is a patch: its bytes are those of the sources.
    return ReportAnswer.model_validate(plain_strings(found) | {"proposal": found["proposal"]})


@router.get("/builds/{build}/log", response_class=Response, responses=_file("text/plain"))
def log(request: Request, job: FinishedJob, services: ServicesDep) -> Response:
    """Return the log of the build's tools."""
    return files.of_job(request, services, job, job.log_digest, "build.log", "text/plain; charset=utf-8")


@router.get("/builds/{build}/console", response_class=Response, responses=_file("text/plain"))
def console(request: Request, job: FinishedJob, services: ServicesDep) -> Response:
    """Return the console of the trial's guest."""
    return files.of_job(request, services, job, job.console_digest, "console.log", "text/plain; charset=utf-8")


@router.get("/builds/{build}/module", response_class=Response, responses=_file("application/octet-stream"))
def module(request: Request, job: FinishedJob, services: ServicesDep) -> Response:
    """Return the module of a job that ended with success; none leaves the server for which there is no proof."""
    _statement(job, services)
    return files.of_job(request, services, job, job.module_digest, "livepatch.ko", "application/octet-stream")


@router.get("/builds/{build}/proof", response_class=Response, responses=_file(_PROOF_TYPE))
def proof(request: Request, job: FinishedJob, services: ServicesDep) -> Response:
    """Return the proof of the module: the signed statement of what made it and what its trial saw (docs/proof.md)."""
    statement = _statement(job, services)
    name = f"livepatch.ko{SUFFIX}"
    if statement is None:
        raise files.missing(name)
    # Signed on request: workers have no key. Ed25519 gives the same bytes each time.
    return files.of_bytes(request, sign_proof(services.key, statement), name, _PROOF_TYPE)


def _statement(job: Job, services: Services) -> Statement | None:
    return statement_of(job, services.key.public)
