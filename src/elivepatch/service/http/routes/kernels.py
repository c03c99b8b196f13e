# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes about kernels: list those that the server can build for, and ask for another one (docs/kernels.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from elivepatch.files.digest import sha256_json
from elivepatch.model.errors import EnvironmentFault, TrustError
from elivepatch.model.kernel import Release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.http.bodies import described, parsed
from elivepatch.service.http.dependencies import Services, ServicesDep, error_responses, require_right, requires
from elivepatch.service.http.kernel_wire import KernelBody, KernelRequestAnswer, KernelsAnswer
from elivepatch.service.http.wire import KernelAnswer
from elivepatch.service.jobs.fleet import KERNEL_ROUTE
from elivepatch.service.jobs.jobs import Job, NewJob

router = APIRouter()


@router.get("/kernels")
def kernels(
    services: ServicesDep,
    _account: Annotated[Account, requires(Right.CATALOGUE)],
) -> KernelsAnswer:
    """List the kernels that the server can build for."""
    return KernelsAnswer.model_validate({"kernels": [kernel.as_dict() for kernel in services.catalogue.kernels()]})


@router.post(
    "/kernels",
    status_code=202,
    responses=error_responses(400, 404, 413)
    | {200: {"model": KernelRequestAnswer, "description": "The server can build for this kernel already."}},
    openapi_extra=described(KernelBody),
)
async def ask(
    request: Request, services: ServicesDep, account: Annotated[Account, requires(Right.ASK)], response: Response
) -> KernelRequestAnswer:
    """Ask for the base of a kernel. Equal requests of a tenant get the same job while it is under way."""
    answer = await run_in_threadpool(_ask, await request.body(), services, account)
    if answer.job is None:
        response.status_code = 200
    else:
        response.headers["Location"] = f"/v1/builds/{answer.job}"
    return answer


def _ask(body: bytes, services: Services, account: Account) -> KernelRequestAnswer:
    asked = parsed(KernelBody, body).asked()
    _require_own(account, asked.release)
    if asked.files or asked.source:
        # Files that lie about a kernel would put code of their sender into every host that runs it.
        require_right(account, Right.PUSH)
    if not account.may(Right.ANY_PATCH):
        # The configuration decides code too, and the provider `source` builds what it says.
        asked = replace(asked, config=b"")
    known = _known(services, asked.release)
    return KernelRequestAnswer(kernel=known, job=None if known is not None else _submit(services, account, asked).id)


def _known(services: Services, release: Release) -> KernelAnswer | None:
    found = (kernel for kernel in services.catalogue.kernels() if kernel.release == release)
    return next((KernelAnswer.model_validate(kernel.as_dict()) for kernel in found), None)


def _require_own(account: Account, release: Release) -> None:
    if account.kernel not in {"", release}:
        raise TrustError(
            "role-insufficient",
            f"This token is for the kernel {account.kernel} only.",
            advice="Ask the server's operator for a token that may use this kernel.",
        )


def _submit(services: Services, account: Account, asked: KernelRequest) -> Job:
    resources = services.resources
    if not resources.settings.providers.strip():
        raise EnvironmentFault(
            "kernel-unknown",
            f"The server cannot build for {asked.release}, and it makes no bases on request.",
            advice=f"Its operator adds the kernel (elivepatch-server kernel add {asked.release}), or names providers "
            "in the server's settings (docs/kernels.md).",
        )
    described = asked.to_json()
    key = sha256_json({"tenant": account.tenant, "kernel": described})
    known = resources.jobs.answering(key)
    if known is not None:
        return known
    services.capacity.check(account.tenant)
    resources.patches.use(account.tenant, {*asked.files, *asked.source})
    job, new = resources.jobs.submit(
        NewJob(
            job_key=key,
            build_key=key,
            release=asked.release,
            kernel_build_id=asked.build_id,
            request={"kernel": asked.release, "patches": [], "trial": False, "check_only": False, "asked": described},
            route=KERNEL_ROUTE,
            tenant=account.tenant,
            asked_by=account.name,
        )
    )
    if new:
        resources.audit.note(who=account.name, tenant=account.tenant, action="kernel.ask", subject=asked.release)
        resources.engine.submit(job.id, route=job.route, place=job.place)
    return job
