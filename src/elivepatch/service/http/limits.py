# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounds: how much of a request is read, how often one may ask, how much may wait, how full the disk may be."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.errors import DISK_FULL, LimitReached
from elivepatch.service.jobs.jobs import Jobs

_DIGITS = 18
_BUCKETS = 10_000
# The routes that take source patches; they read the body by themselves, after they have looked who asks. Every other
# body is read before that.
_LARGE = re.compile(r"/v1/builds|/v1/(?:patches|blobs)/[0-9a-f]{64}|/elivepatch/api/v1\.0/get_files")
_SMALL_BYTES = 256 * 1024
_BURST_S = 5.0
_QUEUE_RETRY_S = 30


class RateLimiter:
    """Token buckets: `per_s` requests a second for each key, five seconds' worth of them at once."""

    def __init__(self, per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s * _BURST_S)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Count a request of `key`; raises LimitReached where it has had its share."""
        now = self._clock()
        with self._lock:
            left, at = self._buckets.pop(key, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._per_s)
            enough = left >= 1.0
            self._buckets[key] = (left - 1.0 if enough else left, now)
            if len(self._buckets) > _BUCKETS:
                # The one not heard of for the longest time: its bucket is the fullest.
                self._buckets.popitem(last=False)
        if not enough:
            raise LimitReached(
                "rate-limited",
                "Requests come faster than the server lets them.",
                retry_s=max(1, round((1.0 - left) / self._per_s)),
                advice="Wait as long as Retry-After says, and follow a job by its events instead of asking.",
            )


class Capacity:
    """Whether one more job can be taken: how many wait, in all and of the tenant, and what is free on the disks."""

    def __init__(self, jobs: Jobs, *, queue: int, tenant: int, reserve_mib: int, directories: tuple[Path, ...]) -> None:
        self._jobs = jobs
        self._queue = queue
        self._tenant = tenant
        self._reserve = reserve_mib << 20
        self._directories = directories

    def check(self, tenant: str) -> None:
        """Raise LimitReached, or EnvironmentFault with the code `disk-full`, where there is no room."""
        self.check_disk()
        total, own = self._jobs.waiting(tenant)
        if own >= self._tenant:
            raise LimitReached(
                "too-many-builds",
                f"{own} builds of yours are waiting already.",
                retry_s=_QUEUE_RETRY_S,
                advice="Wait until some of them are done, or cancel some.",
            )
        if total >= self._queue:
            raise LimitReached(
                "queue-full",
                "The server has as many builds waiting as it takes.",
                retry_s=_QUEUE_RETRY_S,
                advice="Ask again later; more workers make the queue shorter.",
            )

    def check_disk(self) -> None:
        """Raise EnvironmentFault with the code `disk-full` where no more than the reserve is free."""
        if not self.has_disk():
            raise EnvironmentFault(DISK_FULL.code, DISK_FULL.message, advice=DISK_FULL.advice)

    def has_disk(self) -> bool:
        """Whether more than the reserve is free."""
        return not self._reserve or self.free_bytes() >= self._reserve

    def free_bytes(self) -> int:
        """Return what is free on the fuller of the disks."""
        return min((shutil.disk_usage(directory).free for directory in self._directories), default=1 << 62)


class BodyLimit:
    """Ends reading a request's body with status 413 where it is, or says that it is, larger than it may be.

    `limit_bytes` is for requests with source patches, a small part of it for all others.

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
        limit = self._limit_bytes if _LARGE.fullmatch(scope["path"]) else min(_SMALL_BYTES, self._limit_bytes)
        read = limit + 1 if _says_too_much(Headers(scope=scope), limit) else 0

        async def bounded() -> Message:
            # Raised where the route reads its body, so that it is answered as every other error is.
            nonlocal read
            if read > limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return message

        await self._app(scope, bounded, send)


def _says_too_much(headers: Headers, limit: int) -> bool:
    declared = headers.get("content-length", "")
    # More digits than a size has are too much without a look at their value.
    return declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > limit)
