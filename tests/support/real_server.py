# SPDX-License-Identifier: GPL-2.0-or-later
"""The server as users start it, with the real build backend, and the client beside it."""

from __future__ import annotations

import json
import signal
import subprocess  # noqa: TID251 - a server runs beside its test
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from deadline import wait_until
from running_server import free_port
from schema_check import require_published

BIN = Path(sys.executable).parent


@dataclass
class Server:
    """`elivepatch-server serve` with a state directory of its own; it can be killed and started again."""

    state: Path
    cache: Path
    port: int = field(default_factory=free_port)
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token_file(self) -> Path:
        return self.state / "operator.token"

    @property
    def token(self) -> str:
        return self.token_file.read_text().strip()

    def start(self) -> None:
        command: list[str | Path] = [
            BIN / "elivepatch-server",
            "serve",
            "--state",
            self.state,
            "--cache",
            self.cache,
            "--jobs",
            "2",
        ]
        with self.state.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *self.arguments], stdout=log, stderr=log
            )
        try:
            wait_until(self._answers, within_s=90, every_s=0.1)
        except AssertionError:
            self.end(signal.SIGKILL)
            raise

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", trust_env=False, timeout=2).status_code == 200
        except httpx2.TransportError:
            return False

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=30)
            self.process = None

    def get(self, path: str) -> httpx2.Response:
        answer = httpx2.get(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.token}"}, trust_env=False)
        answer.raise_for_status()
        return answer

    def client(self, *words: str | Path) -> subprocess.Popen[bytes]:
        connection: list[str | Path] = ["-u", self.url, "--token-file", self.token_file]
        return subprocess.Popen(
            [BIN / "elivepatch", *words, *connection], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *words: str | Path, timeout_s: float = 600) -> tuple[int, dict[str, Any], str]:
        """Run a command with --json to its end; return its exit status, its document and its error output."""
        client = self.client(*words, "--json")
        out, err = client.communicate(timeout=timeout_s)
        document = json.loads(out)
        require_published(words, document)
        return client.returncode, document, err.decode()
