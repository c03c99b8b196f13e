# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes about blobs: uploading one in as many requests as it takes, asking where that stands (docs/api.md).

The words are those of Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload): a blob is its own upload
resource, since its digest names it before its first byte is sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Digest
from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.http.dependencies import Services, ServicesDep, error_responses, requires
from elivepatch.service.uploads import MAX_UPLOAD_BYTES, Turn, too_large

_PARTIAL = "application/partial-upload"
_LIMIT = {"Upload-Limit": f"max-size={MAX_UPLOAD_BYTES}", "Cache-Control": "no-store"}

_Uploader = Annotated[Account, requires(Right.ASK)]
_Name = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_Bytes = Annotated[int | None, Header(ge=0, le=10**15 - 1)]
_Complete = Literal["?0", "?1"]

router = APIRouter()


def _body(media_type: str) -> dict[str, Any]:
    return {"requestBody": {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}}


@router.head("/blobs/{sha256}", status_code=204, response_class=Response, responses=error_responses(404, 409))
def standing(services: ServicesDep, account: _Uploader, sha256: _Name) -> Response:
    """Say how many bytes of a blob are here (Upload-Offset), and whether that is all of it (Upload-Complete).

    A request that adds to it meanwhile is ended.
    """
    found = services.resources.uploads.standing(account.tenant, Digest(sha256))
    return _answer(204, found.offset, complete=found.complete)


@router.put(
    "/blobs/{sha256}",
    status_code=201,
    response_class=Response,
    responses=error_responses(400, 409, 413) | {204: {"description": "It is here already."}},
    openapi_extra=_body("application/octet-stream"),
)
async def begin(
    request: Request,
    services: ServicesDep,
    account: _Uploader,
    sha256: _Name,
    upload_complete: Annotated[_Complete, Header()] = "?1",
    upload_length: _Bytes = None,
) -> Response:
    """Upload a blob from its first byte, or with `Upload-Complete: ?0` its first part; earlier parts are forgotten."""
    services.capacity.check_disk()
    _check_size(request, 0, upload_length)
    turn = await run_in_threadpool(
        services.resources.uploads.begin, account.tenant, Digest(sha256), length=upload_length
    )
    if turn is None:
        return await _here(services, account, sha256)
    await _receive(request, turn, complete=upload_complete == "?1")
    answer = _answer(201, turn.offset, complete=upload_complete == "?1")
    answer.headers["Location"] = f"/v1/blobs/{sha256}"
    return answer


@router.patch(
    "/blobs/{sha256}",
    status_code=204,
    response_class=Response,
    responses=error_responses(400, 404, 409, 413, 415),
    openapi_extra=_body(_PARTIAL),
)
async def resume(
    request: Request,
    services: ServicesDep,
    account: _Uploader,
    sha256: _Name,
    upload_offset: Annotated[int, Header(ge=0, le=10**15 - 1)],
    upload_complete: Annotated[_Complete, Header()],
    upload_length: _Bytes = None,
) -> Response:
    """Go on with an upload at the byte at which it stands; with `Upload-Complete: ?1` this is the rest of it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _PARTIAL:
        raise UsageError(
            "upload-type",
            "What goes on with an upload has another type.",
            advice=f"Send it as Content-Type: {_PARTIAL}.",
        )
    services.capacity.check_disk()
    _check_size(request, upload_offset, upload_length)
    turn = await run_in_threadpool(
        services.resources.uploads.resume, account.tenant, Digest(sha256), offset=upload_offset, length=upload_length
    )
    if turn is None:
        return await _here(services, account, sha256)
    await _receive(request, turn, complete=upload_complete == "?1")
    return _answer(204, turn.offset, complete=upload_complete == "?1")


async def _receive(request: Request, turn: Turn, *, complete: bool) -> None:
    """Write what comes as it comes, so that a connection that is cut loses no more than what was on its way."""
    async for piece in request.stream():
        if piece:
            await run_in_threadpool(turn.write, piece)
    if complete:
        await run_in_threadpool(turn.finish)


def _check_size(request: Request, offset: int, length: int | None) -> None:
    """Raise UsageError where a request says that it brings, or begins, more than an upload may have."""
    said = request.headers.get("content-length", "")
    more = int(said) if said.isascii() and said.isdecimal() else 0
    if max(length or 0, offset + more) > MAX_UPLOAD_BYTES:
        raise too_large()


async def _here(services: Services, account: Account, sha256: str) -> Response:
    found = await run_in_threadpool(services.resources.uploads.standing, account.tenant, Digest(sha256))
    return _answer(204, found.offset, complete=found.complete)


def _answer(status: int, offset: int, *, complete: bool) -> Response:
    headers = {"Upload-Offset": str(offset), "Upload-Complete": "?1" if complete else "?0", **_LIMIT}
    if complete:
        headers["Upload-Length"] = str(offset)
    return Response(status_code=status, headers=headers)
