# SPDX-License-Identifier: GPL-2.0-or-later
"""Large series to a real server: each patch crosses the line once, also if the line is cut in between."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_backend import KERNEL
from running_server import RunningServer

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Unreachable
from elivepatch.model.build import BuildRequest
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.settings import ClientSettings

pytestmark = pytest.mark.integration

MIB = 1 << 20
NOISE = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(100_000)).hex().encode()


class Line:
    """Passes connections on to a server and counts the bytes from the client; cuts each connection after `carries`."""

    def __init__(self, port: int) -> None:
        self.carries = 1 << 40
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
                if carried > self.carries:
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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "state") as running:
        yield running


@pytest.fixture
def line(server: RunningServer) -> Iterator[Line]:
    found = Line(server.port)
    yield found
    found.close()


def submit(server: RunningServer, line: Line, *contents: bytes) -> str:
    """Submit a build as the client does."""
    token = server.token_file.read_text().strip()
    patches = tuple(SourcePatch(f"{number}.patch", content) for number, content in enumerate(contents))
    with ServerClient(ClientSettings(url=line.url, token=token)) as client:
        return client.submit(BuildRequest(release=KERNEL.release, series=PatchSeries(patches)))


def test_a_growing_series_sends_only_what_is_new(server: RunningServer, line: Line) -> None:
    series = [b"sleep 0\n" + bytes([number]).hex().encode() + NOISE[: 2 * MIB] for number in range(3)]
    for length in (1, 2, 3):
        before = line.passed
        submit(server, line, *series[:length])
        assert 2 * MIB <= line.passed - before < 2.1 * MIB
    before = line.passed
    submit(server, line, *series)
    assert line.passed - before < 10_000


def test_what_was_uploaded_before_the_line_was_cut_is_not_sent_again(server: RunningServer, line: Line) -> None:
    series = [b"sleep 0\n" + bytes([number]).hex().encode() + NOISE[: 2 * MIB] for number in range(4)]
    line.carries = 5 * MIB
    with pytest.raises(Unreachable):
        submit(server, line, *series)
    assert line.passed < 5.1 * MIB
    line.carries = 1 << 40
    before = line.passed
    assert submit(server, line, *series)
    assert 4 * MIB <= line.passed - before < 4.1 * MIB


def test_a_series_may_have_24_mib_and_no_more(server: RunningServer, line: Line) -> None:
    whole = (b"sleep 0\n" + NOISE * 4)[: 24 * MIB]
    assert submit(server, line, whole[: 12 * MIB], whole[12 * MIB :])
