# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP API, version 1 (docs/api.md)."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from elivepatch.advisory.sources import etag
from elivepatch.model.build import Status
from elivepatch.model.errors import EnvironmentFault, TrustError, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.service import problems
from elivepatch.service.auth import Tokens
from elivepatch.service.engine import Engine
from elivepatch.service.jobs import Asked, Job, Jobs
from elivepatch.service.limits import BodyLimit
from elivepatch.service.records import job_key, keep_request, report_of
from elivepatch.service.store import Store
from elivepatch.service.wire import (
    MAX_BODY_BYTES,
    BuildAnswer,
    BuildBody,
    KernelsAnswer,
    KeyAnswer,
    PageAnswer,
    ProblemAnswer,
    ReportAnswer,
    VersionAnswer,
)
from elivepatch.service.work import Work, cancelled
from elivepatch.service.workshop import Workshop
from elivepatch.trust.keys import PublicKey

_EVENT_POLL_S = 0.2
_EVENTS_AT_ONCE = 200
_MAX_NUMBER = 2**63 - 1
_COMPONENT = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes work with. `stopping` ends the streams that would outlive the server."""

    jobs: Jobs
    store: Store
    workshop: Workshop
    engine: Engine
    work: Work
    tokens: Tokens
    public_key: PublicKey
    stopping: threading.Event


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


With = Annotated[Services, Depends(_services)]


def _authorised(
    services: With, given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
) -> None:
    if given is None:
        raise EnvironmentFault(
            "token-missing",
            "The server wants a token.",
            advice="Give it with --token-file or ELIVEPATCH_TOKEN; the server wrote one to its file operator.token.",
        )
    services.tokens.check(given.credentials)


def _job(services: With, build: Annotated[str, Path(pattern="^[0-9a-f]{16}$")]) -> Job:
    job = services.jobs.get(build)
    if job is None:
        raise UsageError(
            "build-unknown", "The server has no job of this name.", advice="GET /v1/builds lists its jobs."
        )
    return job


Known = Annotated[Job, Depends(_job)]


def _done(job: Known) -> Job:
    if job.status is not Status.DONE:
        raise UsageError(
            "build-not-done",
            f"The job is {job.status.value}; its files are there when it is done.",
            advice="Follow it at /v1/builds/{id}/events.",
        )
    return job


Done = Annotated[Job, Depends(_done)]


def _told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of the error answers that a route may give."""
    return {
        status: {
            "model": ProblemAnswer,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}},
        }
        for status in statuses
    }


def _file(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {}}, "description": "The file; Repr-Digest holds its SHA-256."}}


public = APIRouter()
private = APIRouter(prefix="/v1", dependencies=[Depends(_authorised)], responses=_told(401, 422, 500, 503, 507))


@public.get("/healthz")
def health() -> dict[str, str]:
    """Say that the server answers."""
    return {"status": "ok"}


@public.get("/v1/version")
def which_version() -> VersionAnswer:
    """Say which server this is."""
    return VersionAnswer(name="elivepatch", version=version("elivepatch"), api="v1")


@private.get("/key")
def signing_key(services: With) -> KeyAnswer:
    """Say with which key the server signs; a host pins it when it is enrolled."""
    key = services.public_key
    return KeyAnswer(algorithm="ed25519", public_key=key.raw.hex(), fingerprint=key.fingerprint)


@private.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> dict[str, Any]:
    """Describe this API."""
    application: FastAPI = request.app
    document = application.openapi()
    body = BuildBody.model_json_schema(ref_template=_COMPONENT)
    document["components"]["schemas"] |= body.pop("$defs") | {BuildBody.__name__: body}
    return document


@private.get("/kernels")
def kernels(services: With) -> KernelsAnswer:
    """List the kernels that the server can build for."""
    return KernelsAnswer.model_validate({"kernels": [kernel.as_dict() for kernel in services.workshop.kernels()]})


@private.get(
    "/kernels/{release}/sources",
    response_class=Response,
    responses=_told(404)
    | {
        200: {"content": {"application/json": {}}, "description": "What the kernel was built from (docs/cve.md)."},
        304: {"description": "It is what If-None-Match names."},
    },
)
def sources(
    release: Annotated[str, Path(max_length=200)],
    services: With,
    if_none_match: Annotated[str, Header(max_length=1000)] = "",
) -> Response:
    """Say which sources a kernel was built from, into which modules they went, and what its changelog closes."""
    content = services.workshop.sources(release).encode()
    headers = {"ETag": etag(content), "Cache-Control": "no-cache"}
    if headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


@private.post(
    "/builds",
    status_code=202,
    responses=_told(404, 413) | {200: {"model": BuildAnswer, "description": "A job that answers this already."}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _COMPONENT.format(model=BuildBody.__name__)}}},
        }
    },
)
async def submit(request: Request, services: With, response: Response) -> BuildAnswer:
    """Ask for a build. The same request is answered by the job it already has, unless that was our error.

    The body is read here, by ourselves: FastAPI would read and decode it before it looks at the token.
    """
    job, new = await run_in_threadpool(_submit, await request.body(), services)
    if not new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/builds/{job.id}"
    return BuildAnswer.of(job)


def _submit(body: bytes, services: Services) -> tuple[Job, bool]:
    try:
        request = BuildBody.model_validate_json(body).request()
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from error
    build_key = services.workshop.build_key(request)
    build_ids = [kernel.build_id for kernel in services.workshop.kernels() if kernel.release == request.release]
    job, new = services.jobs.submit(
        Asked(
            job_key=job_key(build_key, request),
            build_key=build_key,
            release=request.release,
            kernel_build_id=build_ids[0] if build_ids else "",
            request=keep_request(request, services.store),
        )
    )
    if new:
        services.engine.submit(job.id)
    return job, new


@private.get("/builds")
def page(
    services: With,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=0, le=_MAX_NUMBER)] = None,
) -> PageAnswer:
    """List jobs, newest first."""
    found = services.jobs.page(limit=limit + 1, before=before)
    return PageAnswer(
        builds=[BuildAnswer.of(job) for job in found[:limit]],
        next=found[limit - 1].number if len(found) > limit else None,
    )


@private.get("/builds/{build}", responses=_told(404))
def status(job: Known) -> BuildAnswer:
    """Say where a job stands."""
    return BuildAnswer.of(job)


@private.delete("/builds/{build}", responses=_told(404))
def cancel(job: Known, services: With) -> BuildAnswer:
    """End a job. It ends for everyone who waits for it; a job that is done stays as it is."""
    now = services.jobs.cancel(job.id, cancelled())
    services.work.cancel(job.id)
    return BuildAnswer.of(now or job)


@private.get("/builds/{build}/events", response_class=EventSourceResponse, responses=_told(404))
async def events(
    job: Known,
    services: With,
    last_event_id: Annotated[int, Header(ge=0, le=_MAX_NUMBER)] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Tell what happens to a job from its beginning, or from after Last-Event-ID, until it is done."""
    last = last_event_id
    while not services.stopping.is_set():
        # Asked before the events are read: what is there afterwards is then all that there will be.
        current = await run_in_threadpool(services.jobs.get, job.id)
        found = await run_in_threadpool(services.jobs.events_after, job.id, last, limit=_EVENTS_AT_ONCE)
        for event in found:
            last = event.id
            yield ServerSentEvent(id=str(event.id), event=event.kind, data=event.data)
        if not found:
            if current is None or current.status is Status.DONE:
                return
            await asyncio.sleep(_EVENT_POLL_S)


@private.get("/builds/{build}/report", responses=_told(404, 409))
def report(job: Done) -> ReportAnswer:
    """Say how a job ended."""
    return ReportAnswer.model_validate(report_of(job))


@private.get("/builds/{build}/log", response_class=Response, responses=_told(404, 409) | _file("text/plain"))
def log(job: Done, services: With) -> Response:
    """Return what the build's tools printed."""
    return _served(services, job, job.log_digest, "build.log", "text/plain; charset=utf-8")


@private.get("/builds/{build}/console", response_class=Response, responses=_told(404, 409) | _file("text/plain"))
def console(job: Done, services: With) -> Response:
    """Return what the trial's guest printed."""
    return _served(services, job, job.console_digest, "console.log", "text/plain; charset=utf-8")


@private.get(
    "/builds/{build}/module", response_class=Response, responses=_told(404, 409) | _file("application/octet-stream")
)
def module(job: Done, services: With) -> Response:
    """Return the module of a job that ended with success."""
    return _served(services, job, job.module_digest, "livepatch.ko", "application/octet-stream")


@private.get(
    "/builds/{build}/signature", response_class=Response, responses=_told(404, 409) | _file("application/json")
)
def signature(job: Done, services: With) -> Response:
    """Return the server's signed statement about the module (docs/host.md)."""
    digest = (job.report or {}).get("signature")
    return _served(services, job, digest, "livepatch.ko.sig", "application/json")


def _served(services: Services, job: Job, digest: Digest | None, name: str, media_type: str) -> Response:
    if digest is None:
        raise UsageError("file-unknown", f"This job has no {name}.", advice="The job's report says how it ended.")
    try:
        content = services.store.get(digest)
    except (EnvironmentFault, TrustError):
        services.jobs.forget(job.id)
        raise
    encoded = base64.b64encode(bytes.fromhex(digest)).decode("ascii")
    return Response(
        content,
        media_type=media_type,
        headers={
            "Repr-Digest": f"sha-256=:{encoded}:",
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
        },
    )


def create(services: Services) -> FastAPI:
    """Return the application that answers for `services`."""
    app = FastAPI(
        title="elivepatch",
        version=version("elivepatch"),
        summary="Builds livepatches for Linux kernels, and tries them.",
        # FastAPI's pages load scripts from other people's servers.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = services
    app.add_middleware(BodyLimit, limit_bytes=MAX_BODY_BYTES)
    app.include_router(public)
    app.include_router(private)
    problems.install(app)
    return app
