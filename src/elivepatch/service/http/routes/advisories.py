# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes for signed documents about CVEs: the index of records, and the sources of each kernel."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Response

from elivepatch.advisory.exposure.sources import etag
from elivepatch.model.errors import UsageError
from elivepatch.service.access.accounts import Right
from elivepatch.service.http.dependencies import ServicesDep, error_responses, requires
from elivepatch.service.http.signed_file import Signed
from elivepatch.trust.document import HEADER, SOURCES, sign_document

router = APIRouter(dependencies=[requires(Right.CATALOGUE)])


def _answers(media_type: str, what: str) -> dict[int | str, dict[str, Any]]:
    return error_responses(404) | {
        200: {"content": {media_type: {}}, "description": f"{what}; {HEADER} holds the server's signature."},
        304: {"description": "If-None-Match names the newest version."},
    }


@router.get(
    "/kernels/{release}/sources",
    response_class=Response,
    responses=_answers("application/json", "The sources of the kernel (docs/cve.md)"),
)
def sources(
    release: Annotated[str, Path(max_length=200)],
    services: ServicesDep,
    if_none_match: Annotated[str, Header(max_length=1000)] = "",
) -> Response:
    """Return the sources of a kernel, the modules that they are in, and the CVEs that its changelog closes."""
    content = services.catalogue.sources(release)
    signed = Signed(tag=etag(content), signature=sign_document(services.key, SOURCES, content))
    return _answer(signed, None if signed.tag in if_none_match else content, "application/json")


@router.get(
    "/cve/records",
    response_class=Response,
    responses=_answers("application/octet-stream", "The index of all CVE records"),
)
def records(services: ServicesDep, if_none_match: Annotated[str, Header(max_length=1000)] = "") -> Response:
    """Return the index of all CVE records that `elivepatch-server cve index` made."""
    try:
        signed, content = services.records.read(if_none_match)
    except FileNotFoundError:
        raise UsageError(
            "records-unknown",
            "The server has no CVE records.",
            advice="Make them on the server: elivepatch-server cve index --records LIST",
        ) from None
    return _answer(signed, content, "application/octet-stream")


def _answer(signed: Signed, content: bytes | None, media_type: str) -> Response:
    headers = {"ETag": signed.tag, "Cache-Control": "no-cache", HEADER: signed.signature}
    if content is None:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
