# SPDX-License-Identifier: GPL-2.0-or-later
"""The server process: assembles its parts and serves until a signal; the next start continues running jobs."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
import uvicorn

from elivepatch.files.secret import require_private
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.service.access.allowed_patches import AllowedPatches
from elivepatch.service.access.signing_key import open_signing_key
from elivepatch.service.db.causes import is_disk_full
from elivepatch.service.errors import DISK_FULL
from elivepatch.service.http.addresses import parse_networks
from elivepatch.service.http.dependencies import Services
from elivepatch.service.http.limits import Capacity, RateLimiter
from elivepatch.service.http.routes import api
from elivepatch.service.http.signed_file import SignedFile
from elivepatch.service.http.streams import EventNotifier
from elivepatch.service.jobs.backend import BuildBackend
from elivepatch.service.jobs.catalogue import Catalogue, FleetCatalogue, LocalCatalogue
from elivepatch.service.jobs.janitor import Janitor
from elivepatch.service.jobs.worker import Worker
from elivepatch.service.metrics import Metrics
from elivepatch.service.resources import open_resources, require_shared
from elivepatch.service.retention import Retention
from elivepatch.service.state_directory import KEY_FILE, RECORDS_FILE, TOKEN_FILE, make_state_directory, state_lock
from elivepatch.settings import ServerSettings
from elivepatch.trust.document import RECORDS

# A thousand clients may connect at once.
_LISTEN_BACKLOG = 2048
_FILES = 65_536
# The whole shutdown stays under ten seconds, after which init systems kill a service.
_CONNECTIONS_S = 2

_logger = structlog.get_logger()


class _Uvicorn(uvicorn.Server):
    """uvicorn's server that also stops streams and running jobs on a signal."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting; end streams and the programs of running jobs."""
        super().handle_exit(sig, frame)
        # In a thread of its own: the interrupted thread may hold a lock that is needed here.
        threading.Thread(target=self._stop, name="stop").start()

    def _stop(self) -> None:
        self._services.stopping.set()
        self._services.notifier.stop()
        if self._services.worker is not None:
            self._services.worker.interrupt()


def serve(settings: ServerSettings, backend: BuildBackend | None) -> None:
    """Serve until SIGTERM or SIGINT, then end within ten seconds. Without a backend, workers carry out the jobs.

    Raises EnvironmentFault if the state directory is in use or not writable, or the port is in use.
    """
    if backend is None:
        require_shared(settings)
    state = settings.state_dir
    make_state_directory(state)
    with state_lock(state), _listening(settings.host, settings.port) as listener:
        try:
            _serve(settings, backend, listener)
        except Exception as error:
            if is_disk_full(error):
                raise EnvironmentFault(DISK_FULL.code, DISK_FULL.message, advice=DISK_FULL.advice) from error
            raise


def assemble(settings: ServerSettings, backend: BuildBackend | None) -> Services:
    """Return the resources of a server, none of them running yet."""
    state = settings.state_dir
    resources = open_resources(settings)
    # Before the token: a server that lacks the key of the others must not leave anything behind.
    key = open_signing_key(resources.database, state / KEY_FILE, shared=resources.shared)
    if resources.tokens.ensure_operator(state / TOKEN_FILE):
        _logger.info("token.written", file=str(state / TOKEN_FILE))
    elif not (state / TOKEN_FILE).exists():
        _logger.info("token.elsewhere", advice="Copy operator.token from the server that was started first.")
    catalogue: Catalogue = (
        FleetCatalogue(resources.fleet, resources.store)
        if backend is None or resources.shared
        else LocalCatalogue(backend)
    )
    capacity = Capacity(
        resources.jobs,
        queue=settings.queue_limit,
        tenant=settings.tenant_limit,
        reserve_mib=settings.disk_reserve_mib,
        directories=tuple(place for place in (state, settings.cache_dir) if place.is_dir()),
    )
    return Services(
        resources=resources,
        catalogue=catalogue,
        allowed_patches=AllowedPatches(settings.overlays),
        rate_limiter=RateLimiter(settings.requests_per_s),
        capacity=capacity,
        metrics=Metrics(resources.database, resources.fleet, capacity),
        notifier=EventNotifier(resources.database),
        key=key,
        records=SignedFile(state / RECORDS_FILE, RECORDS, key),
        worker=Worker(resources, backend) if backend is not None else None,
        stopping=threading.Event(),
    )


def _serve(settings: ServerSettings, backend: BuildBackend | None, listener: socket.socket) -> None:
    config = uvicorn_options(settings)
    _allow_many_files()
    services = assemble(settings, backend)
    janitor = Janitor(services.resources.jobs, services.resources.engine, services.resources.fleet)
    retention = Retention(services.resources)
    if services.worker is not None:
        services.worker.start()
    else:
        janitor.start()
    retention.start()
    services.notifier.start()
    _logger.info(
        "server.listening",
        address=_address(listener, tls=bool(settings.tls_certificate)),
        token_file=str(settings.state_dir / TOKEN_FILE),
    )
    server = _Uvicorn(uvicorn.Config(api.create(services), **config), services)
    # uvicorn raises the signal again after it has stopped; by then it must not end the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    server.run(sockets=[listener])
    services.stopping.set()
    services.resources.engine.stop()
    left: list[str] = []
    if services.worker is not None:
        left = services.worker.stop()
    else:
        janitor.stop()
    retention.stop()
    _logger.info("server.stopped", busy_threads=left)
    if left:
        # A step that ignores its cancellation; nothing that it still does is recorded.
        os._exit(0)
    services.resources.close()


def uvicorn_options(settings: ServerSettings) -> dict[str, Any]:
    """Return the options of uvicorn; raises UsageError or EnvironmentFault if a setting among them is unusable."""
    return {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": _CONNECTIONS_S,
        **_forwarding(settings),
        **_tls(settings),
    }


def _forwarding(settings: ServerSettings) -> dict[str, Any]:
    """Return the options about X-Forwarded-For.

    uvicorn's default trusts the header of every sender on loopback. There a proxy sits that passes on what a client
    wrote, and the rate limit and the list of old clients go by the address.
    """
    if not settings.trusted_proxies:
        return {"proxy_headers": False}
    try:
        networks = parse_networks(settings.trusted_proxies)
    except ValueError as error:
        raise UsageError(
            "trusted-proxies",
            "The setting trusted_proxies is malformed.",
            advice='Write addresses or networks separated by commas, for example "127.0.0.1,10.0.0.0/8".',
        ) from error
    return {"proxy_headers": True, "forwarded_allow_ips": [str(network) for network in networks]}


def _tls(settings: ServerSettings) -> dict[str, Any]:
    if not settings.tls_certificate:
        return {}
    try:
        # uvicorn's own message does not name the cause.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key or None)
        if settings.tls_client_ca:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(settings.tls_client_ca)
    except (OSError, ssl.SSLError) as error:
        raise EnvironmentFault(
            "tls-files",
            f"The server's certificate, key or client authority cannot be used: {error}.",
            advice="Give matching PEM files: --tls-certificate, --tls-key, --tls-client-ca.",
        ) from error
    require_private(Path(settings.tls_key or settings.tls_certificate), "the server's private key")
    return {
        "ssl_certfile": settings.tls_certificate,
        "ssl_keyfile": settings.tls_key or None,
        "ssl_ca_certs": settings.tls_client_ca or None,
        "ssl_cert_reqs": ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
    }


def _allow_many_files() -> None:
    """Raise the limit of open files; each client that follows a job needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Ignore a signal. The programs that jobs start would inherit SIG_IGN; they do not inherit a handler."""


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_LISTEN_BACKLOG)
    except (OSError, OverflowError) as error:
        raise EnvironmentFault(
            "listen",
            f"The server cannot listen on {host} port {port}: {error}.",
            advice="Stop the program on that port or choose another --port; --host takes an address of this machine.",
        ) from error
    with listener:
        # Accepted connections inherit this. asyncio sets it only for sockets that were made with the protocol's number,
        # which create_server does not give; without it each answer after the first waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def _address(listener: socket.socket, *, tls: bool) -> str:
    scheme = "https" if tls else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
