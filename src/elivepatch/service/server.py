# SPDX-License-Identifier: GPL-2.0-or-later
"""The server process: puts the parts together, serves until told to stop, leaves running jobs to the next start."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import structlog
import uvicorn

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service import api
from elivepatch.service.auth import Tokens
from elivepatch.service.database import migrate, open_database, sqlite_url
from elivepatch.service.engine import Engine
from elivepatch.service.faults import DISK_FULL, is_disk_full
from elivepatch.service.janitor import Janitor
from elivepatch.service.jobs import Jobs
from elivepatch.service.store import Store
from elivepatch.service.work import Work
from elivepatch.service.workshop import Workshop
from elivepatch.settings import ServerSettings
from elivepatch.trust.keys import ServerKey

KEY_FILE = "signing.key"
TOKEN_FILE = "operator.token"  # noqa: S105 - a file's name

_LISTEN_BACKLOG = 128
# Together under the ten seconds after which init systems lose patience.
_CONNECTIONS_S = 2
_JOBS_S = 4

_logger = structlog.get_logger()


class _Uvicorn(uvicorn.Server):
    """Tells the rest of the process at once when a signal asks it to end."""

    def __init__(self, config: uvicorn.Config, services: api.Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop accepting; end streams and the programs of running jobs."""
        super().handle_exit(sig, frame)
        # In a thread: the one that the signal interrupts may hold a lock that is needed here.
        threading.Thread(target=self._stop, name="stop").start()

    def _stop(self) -> None:
        self._services.stopping.set()
        self._services.work.stop()


def serve(settings: ServerSettings, workshop: Workshop) -> None:
    """Serve until SIGTERM or SIGINT, then end within ten seconds.

    Raises EnvironmentFault where the state directory is in use or cannot be written, or the port is taken.
    """
    state = settings.state_dir
    try:
        state.mkdir(parents=True, exist_ok=True)
        # People's patches, which may describe holes that are not public yet, and the digests of tokens.
        state.chmod(0o700)
    except OSError as error:
        raise EnvironmentFault(
            "state-directory",
            f"{state} cannot be made the server's own: {error.strerror}.",
            advice="Give a directory that this user may write with --state.",
        ) from error
    with _alone(state / "server.lock"), _listening(settings.host, settings.port) as listener:
        try:
            _serve(state, workshop, listener)
        except Exception as error:
            if is_disk_full(error):
                raise EnvironmentFault(DISK_FULL.code, DISK_FULL.message, advice=DISK_FULL.advice) from error
            raise


def assemble(state: Path, workshop: Workshop) -> api.Services:
    """Return the parts of a server that keeps everything in `state`, none of them running yet."""
    database = open_database(sqlite_url(state / "elivepatch.db"))
    migrate(database)
    tokens = Tokens(database)
    if tokens.ensure_operator(state / TOKEN_FILE):
        _logger.info("token.written", file=str(state / TOKEN_FILE))
    jobs = Jobs(database)
    store = Store.in_directory(state / "store")
    key = ServerKey.load_or_create(state / KEY_FILE)
    work = Work(jobs=jobs, store=store, workshop=workshop, key=key, directory=state / "work")
    return api.Services(
        jobs=jobs,
        store=store,
        workshop=workshop,
        engine=Engine(sqlite_url(state / "engine.db"), work),
        work=work,
        tokens=tokens,
        public_key=key.public,
        stopping=threading.Event(),
    )


def _serve(state: Path, workshop: Workshop, listener: socket.socket) -> None:
    services = assemble(state, workshop)
    janitor = Janitor(services.jobs, services.engine)
    services.work.sweep()
    services.engine.start()
    janitor.start()
    _logger.info("server.listening", address=_address(listener), token_file=str(state / TOKEN_FILE))
    server = _Uvicorn(
        uvicorn.Config(
            api.create(services),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_CONNECTIONS_S,
        ),
        services,
    )
    # uvicorn sends itself the signal again when it has ended; by then that is no news.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _no_news)
    server.run(sockets=[listener])
    services.work.stop()
    janitor.stop()
    services.engine.stop(grace_s=_JOBS_S)
    left = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("dbos-executor"))
    _logger.info("server.stopped", busy_threads=left)
    if left:
        # A step that does not heed its cancellation; nothing it still does would be recorded.
        os._exit(0)


def _no_news(_number: int, _frame: FrameType | None) -> None:
    """Heed a signal by doing nothing; SIG_IGN would be handed down to the programs that jobs start."""


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold the state directory: two servers in it would run each job twice."""
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentFault(
                "state-in-use",
                f"Another server uses {file.parent}.",
                advice="Stop that one, or give this one a directory of its own with --state.",
            ) from error
        yield


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_LISTEN_BACKLOG)
    except (OSError, OverflowError) as error:
        raise EnvironmentFault(
            "listen",
            f"The server cannot listen on {host} port {port}: {error}.",
            advice="Stop what uses the port, or choose another with --port; --host takes an address of this machine.",
        ) from error
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
