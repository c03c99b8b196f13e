# SPDX-License-Identifier: GPL-2.0-or-later
"""A server inside the test process: the real routes and services with a fake backend."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from deadline import wait_until
from fake_backend import KERNEL, FakeBackend
from starlette.testclient import TestClient

from elivepatch.service.access.accounts import Account, Role
from elivepatch.service.http.dependencies import Services
from elivepatch.service.http.routes import api
from elivepatch.service.http.server import assemble
from elivepatch.service.state_directory import TOKEN_FILE
from elivepatch.settings import ServerSettings

DEADLINE_S = 20.0


@dataclass
class Assembled:
    """A running server and an HTTP client with the operator's token."""

    http: TestClient
    services: Services
    backend: FakeBackend
    state: Path

    def token(self, name: str, role: Role, *, tenant: str = "default", kernel: str = "") -> dict[str, str]:
        """Add a token and return the header that carries it."""
        made = self.services.resources.tokens.add(Account(name=name, role=role, tenant=tenant, kernel=kernel))
        return {"Authorization": f"Bearer {made}"}

    def ask(self, patch: str, headers: dict[str, str] | None = None, **more: Any) -> httpx2.Response:
        content = base64.b64encode(patch.encode()).decode()
        body = {"kernel": KERNEL.release, "patches": [{"name": "fix.patch", "content": content}]} | more
        return self.http.post("/v1/builds", json=body, headers=headers)

    def done(self, patch: str, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
        """Submit a build, wait for its end and return the report."""
        asked = self.ask(patch, headers, **more)
        assert asked.status_code in {200, 202}, asked.text
        job = asked.json()["id"]
        return wait_until(lambda: self._report(job), within_s=DEADLINE_S)

    def _report(self, job: str) -> dict[str, Any] | None:
        report = self.http.get(f"/v1/builds/{job}/report")
        document: dict[str, Any] | None = report.json() if report.status_code == 200 else None
        return document


@contextmanager
def assembled(
    state: Path,
    *,
    client: tuple[str, int] = ("127.0.0.1", 50000),
    kind: type[FakeBackend] = FakeBackend,
    **settings: Any,
) -> Iterator[Assembled]:
    """Run a server in this process until the block ends."""
    backend = kind(state / "runs.txt")
    known: dict[str, Any] = {"requests_per_s": 5000.0, "cache_dir": state} | settings
    services = assemble(ServerSettings(state_dir=state, **known), backend)
    assert services.worker is not None
    # The handlers may still write to the standard error of an earlier test.
    logging.getLogger("dbos").handlers.clear()
    services.worker.start()
    services.notifier.start()
    token = (state / TOKEN_FILE).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    with TestClient(api.create(services), headers=headers, raise_server_exceptions=False, client=client) as http:
        yield Assembled(http, services, backend, state)
    services.stopping.set()
    services.notifier.stop()
    services.resources.engine.stop()
    services.worker.stop()
    services.resources.close()
