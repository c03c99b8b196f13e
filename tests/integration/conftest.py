# SPDX-License-Identifier: GPL-2.0-or-later
"""An enrolled host, and a server on loopback that decides by words in the patches; a module may replace both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cve_server import CveServer
from host_commands import enrolled_host
from signing_server import SigningServer
from simulated_host import SimulatedHost


@pytest.fixture
def server() -> Iterator[SigningServer]:
    with CveServer().running() as found:
        yield found


@pytest.fixture
def host(tmp_path: Path, server: SigningServer, monkeypatch: pytest.MonkeyPatch) -> SimulatedHost:
    monkeypatch.setattr("elivepatch.client.server.follow.PATIENCE_S", 0.3)
    return enrolled_host(tmp_path / "host", server.url)
