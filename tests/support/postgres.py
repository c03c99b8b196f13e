# SPDX-License-Identifier: GPL-2.0-or-later
"""A throw-away PostgreSQL cluster on loopback, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from elivepatch.process import Completed, run

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
USER = "postgres"


class Postgres:
    """A cluster that lives as long as its `with` block; tests may restart it meanwhile."""

    def __init__(self, port: int) -> None:
        self.port = port
        # Not below pytest's directory, which the unprivileged user may not enter.
        self._directory = Path(tempfile.mkdtemp(prefix="elivepatch-pg-"))

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        identity = pwd.getpwnam(USER)
        os.chown(self._directory, identity.pw_uid, identity.pw_gid)
        self._as_user("initdb", "-D", self._cluster, "-A", "trust", "--no-sync").check("initdb")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self._directory}"
            " -c fsync=off -c max_connections=200 -c logging_collector=on"
        )
        # The output is discarded: `run` would wait for a server that holds our files open.
        control = [str(PROGRAMS[-1] / "pg_ctl"), "-D", self._cluster, "-w", "-o", options, "start"]
        self._as_user("sh", "-c", 'exec "$@" >/dev/null 2>&1', "sh", *control).check("pg_ctl start")

    def stop(self) -> None:
        """Kill the server, as a crash would."""
        self._as_user("pg_ctl", "-D", self._cluster, "-m", "immediate", "-w", "stop")

    def database(self, name: str) -> str:
        """Make a database and return its URL."""
        self._as_user("createdb", "-h", "127.0.0.1", "-p", str(self.port), name).check("createdb")
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    @property
    def _cluster(self) -> str:
        return str(self._directory / "cluster")

    def _as_user(self, program: str, *arguments: str) -> Completed:
        found = PROGRAMS[-1] / program
        argv = [str(found) if found.exists() else program, *arguments]
        if os.geteuid() == 0:
            argv = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *argv]
        # `run` ends the process group of its program; a session of its own lets the server outlive the call.
        return run(["setsid", "--wait", *argv] if program == "sh" else argv, timeout_s=60)
