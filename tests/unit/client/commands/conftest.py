# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of a client whose server has one job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from job_server import Run

from elivepatch.client import cli
from elivepatch.client.server.api import ServerClient
from elivepatch.settings import ClientSettings


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `elivepatch` against a server, in a directory of its own that holds fix.patch."""
    (tmp_path / "fix.patch").write_bytes(b"--- a/x\n+++ b/x\n")
    monkeypatch.chdir(tmp_path)

    def run_it(server: Callable[[httpx2.Request], httpx2.Response], *argv: str) -> int:
        for command in ("build", "cancel", "check", "kernels"):
            monkeypatch.setattr(
                f"elivepatch.client.commands.jobs.{command}.connect",
                lambda _: ServerClient(ClientSettings(), transport=httpx2.MockTransport(server)),
            )
        return cli.main(argv)

    return run_it
