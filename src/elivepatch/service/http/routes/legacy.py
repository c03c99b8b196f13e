# SPDX-License-Identifier: GPL-2.0-or-later
"""Wire protocol of elivepatch 2017-2019, for old clients. It has no token, so it is off unless addresses are allowed.

An old client posts everything in one request and ignores the status; right after, it asks exactly once for the module
and loads any body with status 200. So the server holds the first request until the build has ended, and answers the
second one with 200 only for a module that passed its trial. File names of a client are ignored: the field of a part
says what it is, and patches keep their order (docs/legacy.md).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections import OrderedDict
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from elivepatch.model.build import BuildRequest, Result, Status
from elivepatch.model.errors import ElivepatchError, UsageError
from elivepatch.model.kernel import Release
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.access.accounts import Account, Role
from elivepatch.service.http.addresses import Network, is_in, parse_networks
from elivepatch.service.http.dependencies import Services
from elivepatch.service.http.routes.builds import submit_request
from elivepatch.service.jobs.jobs import Job

PREFIX = "/elivepatch/api"

_VERSION = "0.01"
# The old server's source has this run of spaces in its string.
_NOT_THESE = "These are not the         patches you are looking for"
_BROKEN = "Internal Server Error"
_MODULE_TYPE = ", application/octet-stream"
_UUID = re.compile(r"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}", re.ASCII)
_KERNEL_VERSION = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}(?:\.[0-9]{1,4})?", re.ASCII)
_FIELD = re.compile(rb'form-data;(?:[^\r\n]*;)? *name="(patch|main_patch|config)"', re.IGNORECASE)
_BOUNDARY = re.compile(r"multipart/form-data;.*boundary=\"?([^\s\";,]{1,200})\"?", re.IGNORECASE)
_REMEMBERED = 10_000
_AGENTS = 100
_MAX_PATCHES = 64
_POLL_S = 2.0


class LegacyExchanges:
    """Job of each client's identifier, and the modules that announced themselves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, str | None] = OrderedDict()
        self.agents: list[dict[str, str]] = [{"module": "elivepatch", "version": _VERSION}]

    def begin(self, identifier: str) -> bool:
        """Note that an exchange begins; return False if one with this identifier exists already."""
        with self._lock:
            if identifier in self._jobs:
                return False
            self._jobs[identifier] = None
            if len(self._jobs) > _REMEMBERED:
                self._jobs.popitem(last=False)
            return True

    def settle(self, identifier: str, job: str) -> None:
        """Note the job of an exchange."""
        with self._lock:
            self._jobs[identifier] = job

    def job(self, identifier: str) -> str | None:
        """Return the job of an exchange, None if it has none."""
        with self._lock:
            return self._jobs.get(identifier)

    def announce(self, agent: dict[str, str]) -> None:
        """Note a module that announced itself."""
        with self._lock:
            self.agents = [self.agents[0], *self.agents[1:][-_AGENTS:], agent]


class LegacyProtocol:
    """Handlers of the old protocol for clients of some networks; their builds belong to one tenant."""

    def __init__(self, services: Services, addresses: str, tenant: str) -> None:
        self._services = services
        self._networks = _networks(addresses)
        self._account = Account(name="legacy", role=Role.PATCHER, tenant=tenant)
        self._exchanges = LegacyExchanges()

    def allowed(self, request: Request) -> None:
        """Raise 404 for a client of any other address, as if these routes did not exist."""
        address = request.client.host if request.client is not None else ""
        self._services.rate_limiter.take(f"address {address}")
        if not is_in(address, self._networks):
            raise HTTPException(404)

    async def list_agents(self) -> dict[str, Any]:
        """List the modules that announced themselves."""
        return {"agent": self._exchanges.agents}

    async def announce_agent(self, request: Request) -> JSONResponse:
        """Note a module that announces itself."""
        sent = await _json(request)
        for name, wanted in _WANTED.items():
            if not isinstance(sent.get(name), str):
                return JSONResponse({"message": {name: f"No task {wanted} provided"}}, status_code=400)
        agent = {name: str(sent[name])[:100] for name in _WANTED}
        self._exchanges.announce(agent)
        return JSONResponse({"agent": agent}, status_code=201)

    async def take_files(self, request: Request) -> Response:
        """Take patches and configuration, and answer when the build has ended with any result."""
        version, identifier = request.headers.get("kernelversion", ""), request.headers.get("uuid", "")
        parts = _parts(request.headers.get("content-type", ""), await request.body())
        if not (version and _UUID.fullmatch(identifier) and parts["config"] and parts["main_patch"]):
            return _message(500, _BROKEN)
        if len(parts["patch"]) >= _MAX_PATCHES or not self._exchanges.begin(identifier):
            return _message(500, _BROKEN)
        try:
            job = await run_in_threadpool(_ask, self._services, self._account, version, parts)
        except ElivepatchError as error:
            return _message(403, f"{error.problem.message} {error.problem.advice}")
        self._exchanges.settle(identifier, job.id)
        await _until_done(self._services, request, job)
        return JSONResponse({"get_config": {"KernelVersion": None, "UUID": identifier}}, status_code=201)

    async def give_module(self, request: Request) -> Response:
        """Return the module of an exchange if its build ended with success.

        The old client names the exchange in a JSON body of a GET.
        """
        identifier = (await _json(request)).get("UUID")
        if not isinstance(identifier, str) or not _UUID.fullmatch(identifier):
            return _message(500, _BROKEN)
        name = self._exchanges.job(identifier)
        job = await run_in_threadpool(self._services.resources.jobs.get, name) if name is not None else None
        if job is None or job.result is not Result.SUCCESS or job.module_digest is None:
            return _message(403, _NOT_THESE)
        content = await run_in_threadpool(self._services.resources.store.get, job.module_digest)
        return Response(content, headers={"Content-Type": _MODULE_TYPE})

    async def refuse(self) -> Response:
        """Refuse a request with the other method."""
        return _message(403, _NOT_THESE)


def router(services: Services, *, addresses: str, tenant: str) -> APIRouter:
    """Return the old protocol's routes for clients of `addresses` (networks, separated by commas).

    Raises UsageError if the addresses are malformed.
    """
    old = LegacyProtocol(services, addresses, tenant)
    routes = APIRouter(prefix=PREFIX, include_in_schema=False, dependencies=[Depends(old.allowed)])
    for path in ("/", "/v1.0/agent"):
        routes.add_api_route(path, old.list_agents, methods=["GET"])
        routes.add_api_route(path, old.announce_agent, methods=["POST"], response_model=None)
    for method, path, answer in (
        ("POST", "/v1.0/get_files", old.take_files),
        ("GET", "/v1.0/get_files", old.refuse),
        ("GET", "/v1.0/send_livepatch", old.give_module),
        ("POST", "/v1.0/send_livepatch", old.refuse),
    ):
        routes.add_api_route(path, answer, methods=[method], response_model=None)
    return routes


# Fields of an announcement, and their names in the old server's messages.
_WANTED = {"module": "title", "version": "description"}


def _networks(text: str) -> list[Network]:
    try:
        return parse_networks(text)
    except ValueError as error:
        raise UsageError(
            "legacy-addresses",
            "The addresses of old clients are malformed.",
            advice="Write networks separated by commas, for example --legacy 192.0.2.0/24,2001:db8::/32.",
        ) from error


async def _json(request: Request) -> dict[str, Any]:
    try:
        sent = json.loads(await request.body())
    except (ValueError, RecursionError):
        return {}
    return sent if isinstance(sent, dict) else {}


def _message(status: int, text: str) -> JSONResponse:
    return JSONResponse({"message": text}, status_code=status)


def _parts(content_type: str, body: bytes) -> dict[str, list[bytes]]:
    """Return the content of the parts by their field, in their order (RFC 7578)."""
    found: dict[str, list[bytes]] = {"patch": [], "main_patch": [], "config": []}
    boundary = _BOUNDARY.match(content_type)
    if boundary is None:
        return found
    # A delimiter is a whole line (RFC 2046 §5.1.1): a patch may hold a longer line that begins like one.
    delimiter = re.compile(rb"\r\n--" + re.escape(boundary.group(1).encode("latin-1")) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    pieces = delimiter.split(b"\r\n" + body)
    # Text before the first delimiter, then for each delimiter whether it is the last one, and the text after it.
    for last, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if last:
            break
        head, separator, content = piece.partition(b"\r\n\r\n")
        field = _FIELD.search(head)
        if separator and field is not None:
            found[field.group(1).decode("ascii").lower()].append(content)
    return found


def _ask(services: Services, account: Account, version: str, parts: dict[str, list[bytes]]) -> Job:
    release = _release(services, version, parts["config"][0])
    patches = [SourcePatch(f"{number:05}.patch", content) for number, content in enumerate(parts["patch"])]
    series = PatchSeries((*patches, SourcePatch("main.patch", parts["main_patch"][0])))
    job, _ = submit_request(services, account, BuildRequest(release=release, series=series), series.patches)
    return job


def _release(services: Services, version: str, config: bytes) -> Release:
    """Return the one kernel with this version and configuration; raises UsageError unless there is exactly one."""
    digest = hashlib.sha256(config).hexdigest()
    kernels = services.catalogue.kernels() if _KERNEL_VERSION.fullmatch(version) else []
    same_version = [
        kernel
        for kernel in kernels
        if re.match(rf"{re.escape(version)}(?![0-9.])", kernel.release) or _vanilla(services, kernel.release) == version
    ]
    same = [kernel.release for kernel in same_version if kernel.config_digest == digest]
    if len(same) == 1:
        return same[0]
    if same:
        why = f"more than one kernel of version {version} has this configuration."
    elif same_version:
        why = f"no kernel of version {version} has exactly this configuration."
    else:
        why = f"no kernel of version {version[:20]} is known."
    raise UsageError(
        "legacy-kernel",
        f"The server cannot identify the kernel: {why}",
        advice="Have it added with `elivepatch-server kernel add`, or use the new client.",
    )


def _vanilla(services: Services, release: Release) -> str:
    return str(json.loads(services.catalogue.sources(release)).get("vanilla", ""))


async def _until_done(services: Services, request: Request, job: Job) -> None:
    with services.notifier.listening(job.id) as changed:
        while not services.stopping.is_set() and not await request.is_disconnected():
            changed.clear()
            current = await run_in_threadpool(services.resources.jobs.get, job.id)
            if current is None or current.status is Status.DONE:
                return
            try:
                await asyncio.wait_for(changed.wait(), _POLL_S)
            except TimeoutError:
                continue
