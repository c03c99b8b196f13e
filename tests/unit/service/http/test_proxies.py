# SPDX-License-Identifier: GPL-2.0-or-later
"""Address of a client behind a proxy: taken from X-Forwarded-For only if the sender is a trusted proxy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from assembled import assembled
from starlette.testclient import TestClient

from elivepatch.model.errors import UsageError
from elivepatch.service.http.server import uvicorn_options
from elivepatch.settings import ServerSettings

LEGACY = "/elivepatch/api/v1.0/agent"
OLD_CLIENT = "192.0.2.7"


@contextmanager
def behind(state: Path, sender: str, **settings: Any) -> Iterator[TestClient]:
    """Run a server as uvicorn runs it; all its requests come from `sender`."""
    with assembled(state, **settings) as server:
        options = uvicorn_options(ServerSettings(**settings))
        config = uvicorn.Config(server.http.app, **options)
        config.load()
        yield TestClient(config.loaded_app, client=(sender, 50000), raise_server_exceptions=False)


def statuses(client: TestClient, count: int) -> list[int]:
    """Return the statuses of requests without a token, each with another address in its header."""
    headers = [{"X-Forwarded-For": f"198.51.100.{number}"} for number in range(count)]
    return [client.get("/v1/kernels", headers=one).status_code for one in headers]


def legacy(client: TestClient, forwarded: str) -> httpx2.Response:
    return client.get(LEGACY, headers={"X-Forwarded-For": forwarded})


def test_a_header_that_nobody_asked_for_gives_no_address_of_its_own(tmp_path: Path) -> None:
    with behind(tmp_path, "127.0.0.1", requests_per_s=1.0) as client:
        assert 429 in statuses(client, 40)


def test_clients_behind_a_trusted_proxy_have_a_rate_each(tmp_path: Path) -> None:
    with behind(tmp_path, "127.0.0.1", requests_per_s=1.0, trusted_proxies="10.0.0.0/8, 127.0.0.1") as client:
        assert set(statuses(client, 40)) == {401}


def test_a_forged_header_does_not_open_the_protocol_of_2017(tmp_path: Path) -> None:
    with behind(tmp_path, "127.0.0.1", legacy="192.0.2.0/24") as client:
        assert legacy(client, OLD_CLIENT).status_code == 404


def test_a_trusted_proxy_names_the_old_client(tmp_path: Path) -> None:
    with behind(tmp_path, "127.0.0.1", legacy="192.0.2.0/24", trusted_proxies="127.0.0.1") as client:
        assert legacy(client, OLD_CLIENT).status_code == 200
        # A proxy appends the address that it saw to what the client wrote.
        assert legacy(client, f"{OLD_CLIENT}, 198.51.100.9").status_code == 404


def test_a_stranger_beside_the_proxy_is_not_believed(tmp_path: Path) -> None:
    with behind(tmp_path, "198.51.100.9", legacy="192.0.2.0/24", trusted_proxies="127.0.0.1") as client:
        assert legacy(client, OLD_CLIENT).status_code == 404


@pytest.mark.parametrize("text", ["proxy.example.net", "*", "127.0.0.1,", "10.0.0.0/99"])
def test_a_list_of_proxies_that_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        uvicorn_options(ServerSettings(trusted_proxies=text))
    assert refused.value.problem.code == "trusted-proxies"
