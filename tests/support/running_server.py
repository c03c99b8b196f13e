# SPDX-License-Identifier: GPL-2.0-or-later
"""A server process with a fake backend."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess  # noqa: TID251 - a server runs beside its test, process.run waits for the end
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from deadline import wait_until
from fake_backend import KERNEL, FakeBackend

PROGRAM = Path(__file__).with_name("fake_server.py")
DEADLINE_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class RunningServer:
    """A server with a state directory and a port; tests may stop the process and start it again."""

    def __init__(
        self,
        state: Path,
        *,
        inside: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        part: str = "serve",
    ) -> None:
        self.state = state
        self.port = free_port()
        self.log = state.with_name(state.name + ".stderr")
        self.part = part
        self._inside = tuple(inside)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def backend(self) -> FakeBackend:
        """Reader of the backend's journal."""
        return FakeBackend(Path(self._environment.get("FAKE_JOURNAL", self.state / "runs.txt")))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token_file(self) -> Path:
        return self.state / "operator.token"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process and do not wait for it."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    *self._inside,
                    sys.executable,
                    "-W",
                    "error",
                    str(PROGRAM),
                    str(self.state),
                    str(self.port),
                    self.part,
                ],
                env=os.environ | self._environment,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def start(self) -> None:
        """Start the process and wait until it answers; a separate worker has no HTTP port."""
        self._process = self.launch()
        if self.part == "worker":
            return
        wait_until(self._answers, within_s=DEADLINE_S, detail=self.log.read_text)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            return httpx2.get(f"{self.url}/healthz", trust_env=False, timeout=2).status_code == 200
        except httpx2.TransportError:
            return False

    def ended_within(self, seconds: float) -> int:
        """Wait until the process ends and return its exit status."""
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def kill(self) -> None:
        """Kill the process, as a crash would."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send the process SIGTERM."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGTERM)

    def client(self) -> httpx2.Client:
        """Return a client with the operator's token that keeps its connections."""
        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        return httpx2.Client(base_url=self.url, headers=headers, trust_env=False, timeout=20)

    def request(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        return httpx2.request(method, f"{self.url}{path}", headers=headers, trust_env=False, timeout=20, **more)

    def ask(self, patch: str, **more: Any) -> str:
        """Submit a build and return the job id."""
        content = base64.b64encode(patch.encode()).decode()
        body = {"kernel": KERNEL.release, "patches": [{"name": "fix.patch", "content": content}]} | more
        answer = self.request("POST", "/v1/builds", json=body)
        assert answer.status_code in {200, 202}, answer.text
        name: str = answer.json()["id"]
        return name

    def report(self, job: str, *, within_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait until a job ends and return its report."""

        def finished() -> dict[str, Any] | None:
            answer = self.request("GET", f"/v1/builds/{job}/report")
            document: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
            return document

        return wait_until(finished, within_s=within_s, every_s=0.1, detail=self.log.read_text)

    def events(self, job: str) -> list[dict[str, Any]]:
        """Return all events of a finished job."""
        text = self.request("GET", f"/v1/builds/{job}/events").text
        lines = [line for line in text.splitlines() if line.startswith(("event: ", "data: "))]
        return [
            {"event": kind.removeprefix("event: ")} | json.loads(data.removeprefix("data: "))
            for kind, data in zip(lines[::2], lines[1::2], strict=True)
        ]

    def wait_for(self, what: str, count: int = 1) -> None:
        """Wait until the backend has started `what` (build or trial) `count` times."""
        wait_until(lambda: self.backend.runs(what) >= count, within_s=DEADLINE_S, detail=self.log.read_text)

    def keep_alive(self, stop: threading.Event) -> threading.Thread:
        """Restart the process each time it ends, as an init system does, until `stop` is set."""

        def watch() -> None:
            while not stop.is_set():
                assert self._process is not None
                if self._process.poll() is not None:
                    self._process = self.launch()
                time.sleep(0.05)

        thread = threading.Thread(target=watch)
        thread.start()
        return thread
