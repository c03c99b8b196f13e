# SPDX-License-Identifier: GPL-2.0-or-later
"""Large series over lines that are cut, to a real server: what has arrived stays, for its tenant alone."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from fake_backend import KERNEL
from postgres import PROGRAMS, Postgres
from running_server import RunningServer, free_port
from swift import Swift, is_installed

from elivepatch.client.server.api import ServerClient
from elivepatch.model.build import BuildRequest
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.settings import ClientSettings

pytestmark = pytest.mark.integration

# Nothing that repeats: a part at the wrong place would not go unnoticed.
NOISE = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(100_000)).hex().encode()
PARTIAL = {"Upload-Complete": "?1", "Content-Type": "application/partial-upload"}


class BadLine:
    """Passes connections on to a server, and cuts each after so many bytes from the client; 0 cuts none."""

    def __init__(self, port: int, *, carries: int) -> None:
        self.carries = carries
        self.cuts = 0
        self.passed = 0
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        carried = 0
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            threading.Thread(target=_copy, args=(server, client), daemon=True).start()
            while data := _receive(client):
                server.sendall(data)
                carried += len(data)
                self.passed += len(data)
                if self.carries and carried > self.carries:
                    self.cuts += 1
                    for end in (client, server):
                        end.shutdown(socket.SHUT_RDWR)
                    return


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(16_384)
    except OSError:
        return b""


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(16_384):
            target.sendall(data)
    except OSError:
        return


@contextmanager
def bad_line(server: RunningServer, *, carries: int) -> Iterator[BadLine]:
    line = BadLine(server.port, carries=carries)
    try:
        yield line
    finally:
        line.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "state") as running:
        yield running


def submit(server: RunningServer, url: str, *contents: bytes) -> str:
    """Ask for a build as the client does."""
    token = server.token_file.read_text().strip()
    patches = tuple(SourcePatch(f"{number}.patch", content) for number, content in enumerate(contents))
    with ServerClient(ClientSettings(url=url, token=token)) as api:
        return api.submit(BuildRequest(release=KERNEL.release, series=PatchSeries(patches)))


def path_of(content: bytes) -> str:
    return f"/v1/blobs/{hashlib.sha256(content).hexdigest()}"


def begin_and_cut(server: RunningServer, content: bytes, sent: int, *, token: str = "") -> None:
    """Say that all of it comes, send so many bytes, and go away."""
    token = token or server.token_file.read_text().strip()
    head = f"PUT {path_of(content)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content[:sent])
        time.sleep(0.5)


def offset(server: RunningServer, content: bytes) -> int:
    found = server.request("HEAD", path_of(content))
    assert (found.status_code, found.headers["upload-complete"]) == (204, "?0")
    return int(found.headers["upload-offset"])


def resume(server: RunningServer, content: bytes, start: int) -> httpx2.Response:
    token = server.token_file.read_text().strip()
    headers = PARTIAL | {"Upload-Offset": str(start), "Authorization": f"Bearer {token}"}
    return httpx2.patch(f"{server.url}{path_of(content)}", content=content[start:], headers=headers, trust_env=False)


def test_a_large_series_arrives_over_a_line_that_is_cut_again_and_again(server: RunningServer) -> None:
    content = b"sleep 0\n" + NOISE[:5_000_000]
    with bad_line(server, carries=700_000) as line:
        job = submit(server, line.url, b"sleep 0\nsmall", content)
    assert line.cuts >= 7
    assert line.passed < len(content) + line.cuts * 200_000, "each time it goes on near the place of the cut"
    assert server.report(job)["result"] == "success"
    again = submit(server, server.url, b"sleep 0\nsmall", content)
    assert again == job
    assert "Traceback" not in server.log.read_text()


def test_a_request_in_one_piece_would_not_have_arrived_over_that_line(server: RunningServer) -> None:
    content = NOISE[:1_000_000]
    with bad_line(server, carries=700_000) as line, pytest.raises(httpx2.TransportError):
        httpx2.post(f"{line.url}/v1/builds", content=content, trust_env=False)


def test_what_arrived_before_a_cut_stays_and_the_rest_follows(server: RunningServer) -> None:
    content = NOISE[:3_000_000]
    begin_and_cut(server, content, 1_234_567)
    here = offset(server, content)
    assert 1_000_000 < here <= 1_234_567
    assert resume(server, content, here - 1).json()["code"] == "upload-offset"
    assert resume(server, content, here).status_code == 204
    assert server.request("HEAD", path_of(content)).headers["upload-complete"] == "?1"
    assert list((server.state / "uploads").glob("*/*")) == []
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("ends", [RunningServer.kill, RunningServer.terminate])
def test_what_arrived_before_the_server_ended_stays(
    server: RunningServer, ends: Callable[[RunningServer], None]
) -> None:
    content = NOISE[:3_000_000]
    head = (
        f"PUT {path_of(content)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token_file.read_text().strip()}"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(f"{head}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content[:1_500_000])
        time.sleep(0.5)
        ends(server)
        server.ended_within(10)
    server.start()
    here = offset(server, content)
    assert 1_000_000 < here <= 1_500_000
    assert resume(server, content, here).status_code == 204


def test_a_client_that_says_nothing_more_is_passed_by(server: RunningServer) -> None:
    content = NOISE[:1_000_000]
    token = server.token_file.read_text().strip()
    head = f"PUT {path_of(content)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as silent:
        silent.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content[:500_000])
        time.sleep(0.5)
        here = offset(server, content)
        assert resume(server, content, here).status_code == 204
        silent.sendall(content[500_000:600_000])
        assert b" 409 " in silent.recv(4096).split(b"\r\n", 1)[0]
    assert server.request("HEAD", path_of(content)).headers["upload-complete"] == "?1"


def test_tenants_do_not_see_each_other_s_uploads(server: RunningServer) -> None:
    content = NOISE[:2_000_000]
    tokens = {
        tenant: server.request("POST", "/v1/tokens", json={"name": tenant, "role": "patcher", "tenant": tenant}).json()
        for tenant in ("red", "blue")
    }
    red, blue = ({"Authorization": f"Bearer {tokens[tenant]['token']}"} for tenant in ("red", "blue"))
    begin_and_cut(server, content, 1_000_000, token=tokens["red"]["token"])
    url = f"{server.url}{path_of(content)}"
    assert httpx2.head(url, headers=blue, trust_env=False).status_code == 404
    start = int(httpx2.head(url, headers=red, trust_env=False).headers["upload-offset"])
    more = PARTIAL | {"Upload-Offset": str(start)}
    refused = httpx2.patch(url, content=content[start:], headers=blue | more, trust_env=False)
    assert (refused.status_code, refused.json()["code"]) == (404, "blob-unknown")
    assert httpx2.patch(url, content=content[start:], headers=red | more, trust_env=False).status_code == 204
    assert httpx2.head(url, headers=blue, trust_env=False).status_code == 404
    body = {
        "kernel": KERNEL.release,
        "patches": [{"name": "x", "sha256": hashlib.sha256(content).hexdigest()}],
    }
    asked = [
        httpx2.post(f"{server.url}/v1/builds", json=body, headers=who, trust_env=False).status_code
        for who in (blue, red)
    ]
    assert asked == [404, 202]


@pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL server is installed")
@pytest.mark.skipif(not is_installed(), reason="no Swift is installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="the servers are started as other users")
def test_a_large_series_is_uploaded_to_a_server_with_postgresql_and_an_object_store(tmp_path: Path) -> None:
    with ExitStack() as stack:
        postgres, swift = stack.enter_context(Postgres(free_port())), stack.enter_context(Swift())
        environment = swift.environment | {"ELIVEPATCH_DATABASE": postgres.url, "ELIVEPATCH_STORE": swift.url}
        server = stack.enter_context(RunningServer(tmp_path / "state", environment=environment))
        # More than one part of what an object store takes at once.
        content = b"sleep 0\n" + NOISE[:6_000_000] * 3
        with bad_line(server, carries=4_000_000) as line:
            job = submit(server, line.url, content)
        assert line.cuts >= 4
        assert server.report(job)["result"] == "success"
        assert submit(server, server.url, content) == job
        assert list((server.state / "uploads").glob("*/*")) == []
        assert not (server.state / "store").exists()
