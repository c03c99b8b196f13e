# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits: size of a request's body, rate of requests, number of waiting jobs, free space on the disks."""

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
# Routes that take source patches or describe a kernel. They read the body after authentication; FastAPI reads every
# other body before.
_LARGE = re.compile(r"/v1/builds|/v1/kernels|/v1/(?:patches|blobs)/[0-9a-f]{64}|/elivepatch/api/v1\.0/get_files")
_SMALL_BYTES = 256 * 1024
_BURST_S = 5.0
_QUEUE_RETRY_S = 30


class RateLimiter:
    """Token buckets: `per_s` requests a second for each key, and five seconds' worth at once."""

    def __init__(self, per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s * _BURST_S)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Count a request of `key`; raises LimitReached if the key has used up its rate."""
        now = self._clock()
        with self._lock:
            left, at = self._buckets.pop(key, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._per_s)
            enough = left >= 1.0
            self._buckets[key] = (left - 1.0 if enough else left, now)
            if len(self._buckets) > _BUCKETS:
                # The key that has been silent longest: its bucket is the fullest.
                self._buckets.popitem(last=False)
        if not enough:
            raise LimitReached(
                "rate-limited",
                "The requests exceed the server's rate limit.",
                retry_s=max(1, round((1.0 - left) / self._per_s)),
                advice="Wait for the seconds in Retry-After, and follow a job by its events instead of polling.",
            )


class Capacity:
    """Capacity for one more job: waiting jobs in all and of the tenant, free space on the disks."""

    def __init__(self, jobs: Jobs, *, queue: int, tenant: int, reserve_mib: int, directories: tuple[Path, ...]) -> None:
        self._jobs = jobs
        self._queue = queue
        self._tenant = tenant
        self._reserve = reserve_mib << 20
        self._directories = directories

    def check(self, tenant: str) -> None:
        """Raise LimitReached, or EnvironmentFault with the code `disk-full`, if one more job is too much."""
        self.check_disk()
        total, own = self._jobs.waiting(tenant)
        if own >= self._tenant:
            raise LimitReached(
                "too-many-builds",
                f"{own} of your builds are waiting or running already.",
                retry_s=_QUEUE_RETRY_S,
                advice="Wait until some of them are done, or cancel some.",
            )
        if total >= self._queue:
            raise LimitReached(
                "queue-full",
                "The server's queue is full.",
                retry_s=_QUEUE_RETRY_S,
                advice="Try again later; more workers make the queue shorter.",
            )

    def check_disk(self) -> None:
        """Raise EnvironmentFault with the code `disk-full` if less than the reserve is free."""
        if not self.has_disk():
            raise EnvironmentFault(DISK_FULL.code, DISK_FULL.message, advice=DISK_FULL.advice)

    def has_disk(self) -> bool:
        """Return whether at least the reserve is free."""
        return not self._reserve or self.free_bytes() >= self._reserve

    def free_bytes(self) -> int:
        """Return the free bytes on the fuller of the disks."""
        return min((shutil.disk_usage(directory).free for directory in self._directories), default=1 << 62)


class BodyLimit:
    """Refuses a body with status 413 if it is too large or its Content-Length is.

    `limit_bytes` is for requests with source patches; all others may have 256 KiB.

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
            # Raised while the route reads its body, so that it is answered like every other error.
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
    # int() is slow for a number with very many digits.
    return declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > limit)
