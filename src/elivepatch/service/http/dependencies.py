# SPDX-License-Identifier: GPL-2.0-or-later
"""FastAPI dependencies: the server's objects, the authenticated account, the job that a request names."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from elivepatch.model.build import Status
from elivepatch.model.errors import EnvironmentFault, TrustError, UsageError
from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.access.allowed_patches import AllowedPatches
from elivepatch.service.http.limits import Capacity, RateLimiter
from elivepatch.service.http.signed_file import SignedFile
from elivepatch.service.http.streams import EventNotifier
from elivepatch.service.http.wire import ProblemAnswer
from elivepatch.service.jobs.catalogue import Catalogue
from elivepatch.service.jobs.jobs import Job
from elivepatch.service.jobs.worker import Worker
from elivepatch.service.metrics import Metrics
from elivepatch.service.resources import Resources
from elivepatch.trust.keys import ServerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Objects that the routes use. `worker` is None if other processes run the jobs; `stopping` ends streams."""

    resources: Resources
    catalogue: Catalogue
    allowed_patches: AllowedPatches
    rate_limiter: RateLimiter
    capacity: Capacity
    metrics: Metrics
    notifier: EventNotifier
    key: ServerKey
    records: SignedFile
    worker: Worker | None
    stopping: threading.Event


# These are asynchronous although they wait for nothing: FastAPI runs every other dependency in a thread, and those hops
# are most of the time that a short answer takes.
async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]


async def _account(
    request: Request,
    services: ServicesDep,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> Account:
    address = request.client.host if request.client is not None else ""
    if given is None:
        services.rate_limiter.take(f"address {address}")
        raise EnvironmentFault(
            "token-missing",
            "Authentication required: the request has no token.",
            advice="Give it with --token-file or ELIVEPATCH_TOKEN; the server wrote one to its file operator.token.",
        )
    try:
        account = services.resources.tokens.recall(given.credentials)
        if account is None:
            account = await run_in_threadpool(services.resources.tokens.check, given.credentials)
    except EnvironmentFault:
        # A wrong token counts against the address: a client can neither guess without end nor use up another's rate.
        services.rate_limiter.take(f"address {address}")
        raise
    services.rate_limiter.take(f"token {account.name}")
    return account


AccountDep = Annotated[Account, Depends(_account)]


def requires(right: Right) -> Any:
    """Return the dependency that refuses an account without `right`."""

    async def checked(account: AccountDep) -> Account:
        require_right(account, right)
        return account

    return Depends(checked)


def require_right(account: Account, right: Right) -> None:
    """Raise TrustError with the code `role-insufficient` if the account does not have the right."""
    if not account.may(right):
        raise TrustError(
            "role-insufficient",
            f"A token of the role {account.role.value} may not do this.",
            advice="Ask the server's operator for a token of another role; docs/accounts.md lists the roles.",
        )


def _job(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.FOLLOW)],
    build: Annotated[str, Path(pattern="^[0-9a-f]{16}$")],
) -> Job:
    return visible(services, account, build)


def visible(services: Services, account: Account, build: str) -> Job:
    """Return a job that the account may see; raises UsageError with the code `build-unknown` for any other."""
    job = services.resources.jobs.get(build)
    if job is None or not account.sees(tenant=job.tenant, release=job.release):
        raise UsageError(
            "build-unknown", "The server has no job of this name.", advice="GET /v1/builds lists its jobs."
        )
    return job


VisibleJob = Annotated[Job, Depends(_job)]


async def _done(job: VisibleJob) -> Job:
    if job.status is not Status.DONE:
        raise UsageError(
            "build-not-done",
            f"The job is {job.status.value}; its files exist once it is done.",
            advice="Follow it at /v1/builds/{id}/events.",
        )
    return job


FinishedJob = Annotated[Job, Depends(_done)]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of the errors that a route may answer."""
    return {
        status: {
            "model": ProblemAnswer,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}},
        }
        for status in statuses
    }


COMMON_ERRORS = error_responses(401, 403, 422, 429, 500, 503, 507)
"""Errors that every route with a token may answer."""


def json_response(answer: BaseModel) -> Response:
    """Return a long answer as JSON. FastAPI would validate each of its entries again and copy it on the way."""
    return Response(answer.model_dump_json(), media_type="application/json")
