# SPDX-License-Identifier: GPL-2.0-or-later
"""Files over HTTP (RFC 9110): with their digest, whole or one range of them, or 304 if the client has them already."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from elivepatch.files.digest import sha256
from elivepatch.model.errors import EnvironmentFault, Kind, Problem, TrustError, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.service.http.dependencies import Services
from elivepatch.service.http.problems import answer
from elivepatch.service.jobs.jobs import Job

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})", re.ASCII)

_OUT_OF_RANGE = Problem(
    code="range-not-satisfiable",
    kind=Kind.USAGE,
    message="The range begins after the end of the file.",
    advice="Ask without a range; Content-Range has the length of the file.",
)


def of_job(
    request: Request, services: Services, job: Job, digest: Digest | None, name: str, media_type: str
) -> Response:
    """Answer with a file of a job from the store; raises UsageError if the job has none.

    A job with a missing or damaged file answers no more build requests: the next equal request is built again.
    """
    if digest is None:
        raise missing(name)
    if _has(request, digest):
        return Response(status_code=304, headers={"ETag": f'"{digest}"'})
    try:
        size = services.resources.store.verify(digest)
    except (EnvironmentFault, TrustError):
        services.resources.jobs.forget(job.id)
        raise
    return _answer(
        request,
        digest,
        size,
        name,
        media_type,
        lambda first, last: services.resources.store.chunks(digest, first, last),
    )


def missing(name: str) -> UsageError:
    """Return the error of a job that has no such file."""
    return UsageError("file-unknown", f"This job has no {name}.", advice="The job's report has the reason.")


def of_bytes(request: Request, content: bytes, name: str, media_type: str) -> Response:
    """Answer with `content`, or with the range of it that the request names."""
    digest = sha256(content)
    if _has(request, digest):
        return Response(status_code=304, headers={"ETag": f'"{digest}"'})
    return _answer(
        request, digest, len(content), name, media_type, lambda first, last: iter([content[first : last + 1]])
    )


def _answer(
    request: Request,
    digest: Digest,
    size: int,
    name: str,
    media_type: str,
    read: Callable[[int, int], Iterator[bytes]],
) -> Response:
    """Answer with the bytes that `read` yields for the first and last position of the request's range."""
    encoded = base64.b64encode(bytes.fromhex(digest)).decode("ascii")
    headers = {
        "ETag": f'"{digest}"',
        "Repr-Digest": f"sha-256=:{encoded}:",
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
    }
    status = 200
    first, last = 0, size - 1
    span = _span(request, digest, size)
    if span is not None:
        first, last = span
        if first > last:
            refused = answer(_OUT_OF_RANGE)
            refused.headers["Content-Range"] = f"bytes */{size}"
            return refused
        status = 206
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    headers["Content-Length"] = str(last - first + 1)
    return StreamingResponse(read(first, last), status_code=status, media_type=media_type, headers=headers)


def _has(request: Request, digest: Digest) -> bool:
    return digest in request.headers.get("if-none-match", "")


def _span(request: Request, digest: Digest, size: int) -> tuple[int, int] | None:
    """Return the first and last position of the request's range; None for the whole file, first > last for no byte.

    Several ranges, another unit than bytes, or a range of another representation count as no range (RFC 9110 §14.2).
    """
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or found.group(0) == "bytes=-" or digest not in request.headers.get("if-range", digest):
        return None
    first, last = found.groups()
    if not first:
        length = min(int(last), size)
        return (size - length, size - 1) if length else (1, 0)
    if last and int(last) < int(first):
        return None
    return (int(first), min(int(last) if last else size - 1, size - 1)) if int(first) < size else (1, 0)
