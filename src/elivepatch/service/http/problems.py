# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of the API as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from obstore.exceptions import BaseError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from elivepatch.model.errors import ElivepatchError, Kind, Problem
from elivepatch.service.db.causes import problem_of
from elivepatch.service.errors import INTERNAL, LimitReached
from elivepatch.service.printable_log import plain_strings

STATUS_OF_CODE = {
    "token-missing": HTTPStatus.UNAUTHORIZED,
    "token-refused": HTTPStatus.UNAUTHORIZED,
    "role-insufficient": HTTPStatus.FORBIDDEN,
    "patch-not-trusted": HTTPStatus.FORBIDDEN,
    "kernel-unknown": HTTPStatus.NOT_FOUND,
    "build-unknown": HTTPStatus.NOT_FOUND,
    "file-unknown": HTTPStatus.NOT_FOUND,
    "token-unknown": HTTPStatus.NOT_FOUND,
    "host-unknown": HTTPStatus.NOT_FOUND,
    "records-unknown": HTTPStatus.NOT_FOUND,
    "token-exists": HTTPStatus.CONFLICT,
    "base-patches": HTTPStatus.CONFLICT,
    "blob-missing": HTTPStatus.GONE,
    "proof-missing": HTTPStatus.GONE,
    "blob-unknown": HTTPStatus.NOT_FOUND,
    "upload-type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "request-too-large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "build-not-done": HTTPStatus.CONFLICT,
    "range-not-satisfiable": HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    "rate-limited": HTTPStatus.TOO_MANY_REQUESTS,
    "too-many-builds": HTTPStatus.TOO_MANY_REQUESTS,
    "too-many-uploads": HTTPStatus.TOO_MANY_REQUESTS,
    "queue-full": HTTPStatus.TOO_MANY_REQUESTS,
    "server-stopping": HTTPStatus.SERVICE_UNAVAILABLE,
    "database-away": HTTPStatus.SERVICE_UNAVAILABLE,
    "store-away": HTTPStatus.SERVICE_UNAVAILABLE,
    "disk-full": HTTPStatus.INSUFFICIENT_STORAGE,
    "internal-error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "blob-damaged": HTTPStatus.INTERNAL_SERVER_ERROR,
}
_STATUS_OF_KIND = {
    Kind.VERDICT: HTTPStatus.UNPROCESSABLE_ENTITY,
    Kind.FAILURE: HTTPStatus.UNPROCESSABLE_ENTITY,
    Kind.USAGE: HTTPStatus.UNPROCESSABLE_ENTITY,
    Kind.ERROR: HTTPStatus.SERVICE_UNAVAILABLE,
    Kind.TRUST: HTTPStatus.FORBIDDEN,
    Kind.HOST: HTTPStatus.SERVICE_UNAVAILABLE,
}
CODE_OF_STATUS = {404: "not-found", 405: "method-not-allowed", 413: "request-too-large"}
_COUNTED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}
_RETRY_S = 5
_API_ADVICE = "The API is described in docs/api.md and by /v1/openapi.json."
_SIZES = "A request with patches may have 24 MiB, and so may a patch that is uploaded; any other request 256 KiB."

_CUT_OFF = Problem(
    code="request-invalid",
    kind=Kind.USAGE,
    message="The connection ended in the middle of the request.",
    advice=_API_ADVICE,
)

_logger = structlog.get_logger()


def answer(problem: Problem, status: HTTPStatus | None = None) -> JSONResponse:
    """Return the response for `problem`; its code or its kind decides the status unless `status` is given."""
    chosen = status or STATUS_OF_CODE.get(problem.code) or _STATUS_OF_KIND[problem.kind]
    return JSONResponse(
        {
            "type": f"urn:elivepatch:problem:{problem.code}",
            "title": chosen.phrase,
            "status": chosen.value,
            **plain_strings(problem.as_dict()),
        },
        status_code=chosen,
        media_type="application/problem+json",
        headers=_headers(chosen),
    )


def _headers(status: HTTPStatus) -> dict[str, str]:
    if status is HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(_RETRY_S)} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem document."""
    app.add_exception_handler(ElivepatchError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_the_protocol)
    app.add_exception_handler(ClientDisconnect, _cut_off)
    # Named, because Starlette logs the traceback of a plain Exception even if the cause is known.
    app.add_exception_handler(DBAPIError, _unexpected)
    app.add_exception_handler(BaseError, _unexpected)
    app.add_exception_handler(Exception, _unexpected)


def _ours(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ElivepatchError):
        raise TypeError(type(error))
    response = answer(error.problem)
    if isinstance(error, LimitReached):
        response.headers["Retry-After"] = str(error.retry_s)
    if response.status_code in _COUNTED:
        request.app.state.services.metrics.refused(error.problem.code)
    return response


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise TypeError(type(error))
    first = error.errors()[0]
    # The place of the value and its fault, without the value: it may be megabytes.
    place = ".".join(str(part) for part in first["loc"])[:200] or "body"
    return answer(
        Problem(
            code="request-invalid",
            kind=Kind.USAGE,
            message=f"The request is malformed at {place}: {first['msg'][:200]}.",
            advice=_API_ADVICE,
        )
    )


def _of_the_protocol(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise TypeError(type(error))
    status = HTTPStatus(error.status_code)
    problem = Problem(
        code=CODE_OF_STATUS.get(status.value, "request-invalid"),
        kind=Kind.USAGE if status < HTTPStatus.INTERNAL_SERVER_ERROR else Kind.ERROR,
        message=f"The server answers: {status.phrase}.",
        advice=_SIZES if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE else _API_ADVICE,
    )
    response = answer(problem, status)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _cut_off(_request: Request, _error: Exception) -> JSONResponse:
    """Answer a client that disconnected in the middle of its request; this is no error of the server."""
    return answer(_CUT_OFF, HTTPStatus.BAD_REQUEST)


def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error)
    if problem is INTERNAL:
        _logger.error("request.unexpected-exception", exc_info=error)
    return answer(problem)
