# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP API, version 1 (docs/api.md)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from elivepatch.model.series import SERIES_LIMIT_BYTES
from elivepatch.service.access.accounts import Right
from elivepatch.service.http import problems
from elivepatch.service.http.bodies import COMPONENT
from elivepatch.service.http.dependencies import COMMON_ERRORS, Services, ServicesDep, requires
from elivepatch.service.http.kernel_wire import KernelBody
from elivepatch.service.http.limits import BodyLimit
from elivepatch.service.http.routes import admin, advisories, builds, hosts, kernels, legacy, patches
from elivepatch.service.http.wire import BuildBody, KeyAnswer, ReadyAnswer, VersionAnswer
from elivepatch.service.jobs.fleet import ALIVE_S

_METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"

public = APIRouter()
catalogue = APIRouter(dependencies=[requires(Right.CATALOGUE)])
private = APIRouter(prefix="/v1", responses=COMMON_ERRORS)
operations = APIRouter(dependencies=[requires(Right.METRICS)], responses=COMMON_ERRORS)


@public.get("/healthz")
async def health() -> dict[str, str]:
    """Answer that the server runs."""
    return {"status": "ok"}


@public.get("/readyz", responses={503: {"model": ReadyAnswer, "description": "The server lacks one of its parts."}})
def ready(services: ServicesDep) -> JSONResponse:
    """Answer whether the server can work: database, disk, and a live worker."""
    lacks = []
    try:
        if not any(member.silent_s < ALIVE_S for member in services.resources.fleet.members()):
            lacks.append("worker")
    except sa.exc.DBAPIError:
        lacks.append("database")
    if not services.capacity.has_disk():
        lacks.append("disk")
    if services.stopping.is_set():
        lacks.append("time")
    answer = ReadyAnswer(status="not-ready" if lacks else "ready", lacks=lacks)
    return JSONResponse(answer.model_dump(), status_code=503 if lacks else 200)


@public.get("/v1/version")
async def which_version() -> VersionAnswer:
    """Return name and version of the server."""
    return VersionAnswer(name="elivepatch", version=version("elivepatch"), api="v1")


@operations.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "The figures, for Prometheus."}},
)
def metrics(services: ServicesDep) -> Response:
    """Return the server's figures."""
    return Response(services.metrics.render(), media_type=_METRICS_TYPE)


@catalogue.get("/key")
def signing_key(services: ServicesDep) -> KeyAnswer:
    """Return the key with which the server signs; a host pins it when it enrols."""
    key = services.key.public
    return KeyAnswer(algorithm="ed25519", public_key=key.raw.hex(), fingerprint=key.fingerprint)


@catalogue.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> dict[str, Any]:
    """Describe this API."""
    application: FastAPI = request.app
    document = application.openapi()
    for model in (BuildBody, KernelBody):
        body = model.model_json_schema(ref_template=COMPONENT)
        document["components"]["schemas"] |= body.pop("$defs", {}) | {model.__name__: body}
    return document


for part in (catalogue, kernels.router, advisories.router, builds.router, patches.router, hosts.router, admin.router):
    private.include_router(part)


def create(services: Services) -> FastAPI:
    """Return the application that answers for `services`."""
    app = FastAPI(
        title="elivepatch",
        version=version("elivepatch"),
        summary="Builds livepatches for Linux kernels and tries them in a VM.",
        # FastAPI's pages load scripts from servers of third parties.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # The redirect of a path with a slash too many goes to the address that the request's Host names.
        redirect_slashes=False,
    )
    app.state.services = services
    app.add_middleware(BodyLimit, limit_bytes=SERIES_LIMIT_BYTES)
    for router in (public, private, operations):
        app.include_router(router)
    settings = services.resources.settings
    if settings.legacy:
        app.include_router(legacy.router(services, addresses=settings.legacy, tenant=settings.legacy_tenant))
    problems.install(app)
    return app
