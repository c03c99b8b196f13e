# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounds what a request may have the server read, whatever its Content-Length says."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DIGITS = 18


class BodyLimit:
    """Ends reading a request's body with status 413 where it is, or says that it is, larger than `limit_bytes`.

    FastAPI's own `max_body_size` answers some of these in plain text; every error of this API is a problem document.
    """

    def __init__(self, app: ASGIApp, *, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body bounded (the ASGI interface)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = self._limit_bytes + 1 if self._says_too_much(Headers(scope=scope)) else 0

        async def bounded() -> Message:
            # Raised where the route reads its body, so that it is answered as every other error is.
            nonlocal read
            if read > self._limit_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit_bytes:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return message

        await self._app(scope, bounded, send)

    def _says_too_much(self, headers: Headers) -> bool:
        declared = headers.get("content-length", "")
        # More digits than a size has are too much without a look at their value.
        return declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > self._limit_bytes)
