# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes about source patches: each goes up once, by its digest, and build requests name it by that (docs/api.md)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Digest
from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.http.dependencies import Services, ServicesDep, error_responses, requires
from elivepatch.service.http.wire import DigestsBody, MissingAnswer

_Uploader = Annotated[Account, requires(Right.ASK)]
_Name = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}

router = APIRouter()


@router.put(
    "/patches/{sha256}",
    status_code=201,
    response_class=Response,
    responses=error_responses(400, 413) | {204: {"description": "The server has it already."}},
    openapi_extra=_BODY,
)
async def upload(request: Request, services: ServicesDep, account: _Uploader, sha256: _Name) -> Response:
    """Upload a patch, or a piece of a kernel's files, to its SHA-256; it is kept for a week after the last request."""
    new = await _add(request, services, account, Digest(sha256))
    return Response(status_code=201 if new else 204)


@router.post("/patches/missing", responses=error_responses(400, 413))
def missing(services: ServicesDep, account: _Uploader, body: DigestsBody) -> MissingAnswer:
    """Return those of the digests whose patch is to be uploaded before a build request names it."""
    digests = [Digest(one) for one in body.sha256]
    return MissingAnswer(missing=list(services.resources.patches.missing(account.tenant, digests)))


# The spelling of version 0.1, in which a client uploaded large patches in resumable parts. Such a client sends a whole
# patch in one request if it finds nothing of it, and that much is still answered.


@router.head("/blobs/{sha256}", status_code=204, response_class=Response, include_in_schema=False)
def blob_state(services: ServicesDep, account: _Uploader, sha256: _Name) -> Response:
    """Answer 204 for a patch that is here, 404 for any other."""
    if services.resources.patches.missing(account.tenant, [Digest(sha256)]):
        raise UsageError("blob-unknown", "You have not uploaded this patch.", advice="Upload it with PUT.")
    return Response(status_code=204, headers=_COMPLETE)


@router.put("/blobs/{sha256}", status_code=201, response_class=Response, include_in_schema=False)
async def upload_blob(
    request: Request,
    services: ServicesDep,
    account: _Uploader,
    sha256: _Name,
    upload_complete: Annotated[str, Header()] = "?1",
) -> Response:
    """Upload a whole patch; a part of one is refused."""
    if upload_complete != "?1":
        raise UsageError(
            "upload-type",
            "This server takes whole patches only.",
            advice="Send the whole patch with Upload-Complete: ?1, or to PUT /v1/patches/{sha256}.",
        )
    new = await _add(request, services, account, Digest(sha256))
    return Response(status_code=201 if new else 204, headers=_COMPLETE)


_COMPLETE = {"Upload-Complete": "?1"}


async def _add(request: Request, services: Services, account: Account, digest: Digest) -> bool:
    services.capacity.check_disk()
    return await run_in_threadpool(services.resources.patches.add, account.tenant, digest, await request.body())
