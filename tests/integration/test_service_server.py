# SPDX-License-Identifier: GPL-2.0-or-later
"""A real server process with many clients, lost clients, malformed requests and a full disk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess  # noqa: TID251 - the client runs beside the test
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from fake_backend import KERNEL
from running_server import RunningServer

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "state") as running:
        yield running


_CLIENT = "from elivepatch.client.cli import main; raise SystemExit(main())"


def client(server: RunningServer, directory: Path, *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _CLIENT, *argv, "--url", server.url, "--token-file", str(server.token_file)],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_twenty_who_ask_the_same_at_once_get_one_build(server: RunningServer) -> None:
    with ThreadPoolExecutor(20) as crowd:
        jobs = set(crowd.map(lambda _: server.ask("sleep 0.5"), range(20)))
    assert len(jobs) == 1
    assert server.report(jobs.pop())["result"] == "success"
    assert (server.backend.runs("build"), server.backend.runs("trial")) == (1, 1)


def test_the_client_waits_out_a_server_that_is_killed_and_comes_back(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "fix.patch").write_text("sleep 2\n")
    waiting = client(server, tmp_path, "build", "fix.patch", "--kernel", KERNEL.release, "-o", "out.ko")
    server.wait_for("build")
    server.kill()
    time.sleep(1)
    server.start()
    out, told = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, told
    assert b"is built" in out
    assert b"wait: the server is unreachable" in told
    assert b"Traceback" not in told
    report = json.loads((tmp_path / "out.report.json").read_bytes())
    assert hashlib.sha256((tmp_path / "out.ko").read_bytes()).hexdigest() == report["module_sha256"]
    assert (tmp_path / "out.log").read_bytes().startswith(b"compiling in red")
    assert (tmp_path / "out.console.log").is_file()


def test_the_client_that_is_interrupted_leaves_the_job_and_finds_it_again(
    server: RunningServer, tmp_path: Path
) -> None:
    (tmp_path / "fix.patch").write_text("sleep 2\n")
    waiting = client(server, tmp_path, "build", "fix.patch", "--kernel", KERNEL.release)
    server.wait_for("build")
    time.sleep(0.5)
    os.kill(waiting.pid, signal.SIGINT)
    _, told = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    again = told.decode().partition("To follow it again: ")[2].split()
    assert again[:3] == ["elivepatch", "build", "--follow"]
    following = client(server, tmp_path, "build", "--follow", again[3], "--json")
    out, _ = following.communicate(timeout=30)
    assert following.returncode == 0
    assert json.loads(out)["files"]["module"] == "livepatch_meminfo.ko"
    assert server.backend.runs("build") == 1


def test_a_job_that_its_owner_cancels_ends_within_five_seconds(server: RunningServer, tmp_path: Path) -> None:
    job = server.ask("sleep 60")
    server.wait_for("build")
    cancelling = client(server, tmp_path, "cancel", job)
    out, told = cancelling.communicate(timeout=20)
    assert (cancelling.returncode, out.decode()) == (0, f"{job} is about to end.\n"), told
    assert server.report(job, within_s=5)["result"] == "cancelled"


def test_a_token_is_made_at_the_first_start_and_holds_after_the_next(server: RunningServer) -> None:
    token = server.token_file.read_text()
    assert server.token_file.stat().st_mode & 0o777 == 0o600
    assert server.state.stat().st_mode & 0o777 == 0o700
    assert token.strip() not in server.log.read_text()
    server.terminate()
    server.ended_within(10)
    server.start()
    assert server.token_file.read_text() == token
    assert server.request("GET", "/v1/kernels").status_code == 200
    for headers in ({}, {"Authorization": "Bearer elp_" + "A" * 43}):
        refused = httpx2.get(f"{server.url}/v1/kernels", headers=headers, trust_env=False)
        assert refused.status_code == 401


def test_a_second_server_in_the_same_state_directory_is_refused(server: RunningServer) -> None:
    second = RunningServer(server.state)
    assert second.launch().wait(timeout=20) != 0
    assert "state-in-use" in second.log.read_text() or "Another server uses" in second.log.read_text()
    assert server.request("GET", "/v1/kernels").status_code == 200


def test_a_port_that_is_taken_is_said_to_be(server: RunningServer, tmp_path: Path) -> None:
    second = RunningServer(tmp_path / "elsewhere")
    second.port = server.port
    assert second.launch().wait(timeout=20) != 0
    assert "cannot listen on 127.0.0.1" in second.log.read_text()


def test_a_body_that_lies_about_its_length_gets_no_further(server: RunningServer) -> None:
    head = (
        f"POST /v1/builds HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token_file.read_text().strip()}\r\n"
        "Content-Type: application/json\r\n"
    )
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    for length, pieces in ((b"Content-Length: 999999999999\r\n\r\n", 1), (b"Transfer-Encoding: chunked\r\n\r\n", 64)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            raw.sendall(head.encode() + length)
            try:
                for _ in range(pieces):
                    raw.sendall(chunk)
            except OSError:
                pass
            answered = raw.recv(4096)
        assert b" 413 " in answered.split(b"\r\n", 1)[0]
    assert server.request("GET", "/healthz").status_code == 200


def test_a_client_that_goes_away_costs_nothing(server: RunningServer) -> None:
    job = server.ask("sleep 1.5")
    token = server.token_file.read_text().strip()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            raw.sendall(
                f"GET /v1/builds/{job}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            raw.recv(10)
    for sent in (0, 10, 100_000):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
            head = f"POST /v1/builds HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            raw.sendall(head.encode() + b"Content-Length: 500000\r\n\r\n" + b" " * sent)
            time.sleep(0.2)
    assert server.report(job)["result"] == "success"
    assert "Traceback" not in server.log.read_text()


NAMESPACE = ("unshare", "--mount", "--propagation", "private")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which needs root")
def test_a_disk_that_runs_full_is_said_to_be_and_a_second_try_works(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    mount = f'mount -t tmpfs -o size=12m none "{state}" && touch "{state}/runs.txt" && exec "$@"'
    inside = (*NAMESPACE, "sh", "-c", mount, "sh")
    with RunningServer(state, inside=inside, environment={"ELIVEPATCH_DISK_RESERVE_MIB": "0"}) as server:
        # The namespace's own view of its mounts, for the token and the journal.
        outside = Path(f"/proc/{server.pid}/root{state}")
        server.state = outside
        failed = server.report(server.ask("fill"))
        assert (failed["result"], failed["problem"]["code"]) == ("error", "disk-full")
        assert failed["problem"]["advice"]
        assert server.request("GET", f"/v1/builds/{failed['id']}/log").status_code == 200
        assert list((outside / "work").iterdir()) == []

        # Full for reasons of others: nothing can be noted down, neither a request nor how a job goes on.
        building = server.ask("sleep 1.5")
        server.wait_for("build", 2)
        fill(outside / "others")
        content = base64.b64encode(b"y" * 500_000).decode()
        body = {"kernel": KERNEL.release, "patches": [{"name": "x", "content": content}]}
        refused = server.request("POST", "/v1/builds", json=body)
        assert (refused.status_code, refused.json()["code"]) == (507, "disk-full")
        assert server.request("GET", "/healthz").status_code == 200
        time.sleep(3)
        assert server.request("GET", f"/v1/builds/{building}").json()["status"] == "running"

        (outside / "others").unlink()
        assert server.report(server.ask("y" * 500_000))["result"] == "success"
        report = server.report(building, within_s=60)
        assert report["problem"] is None or report["problem"]["code"] == "disk-full"
        assert server.report(server.ask("sleep 1.5"))["result"] == "success"


def fill(file: Path) -> None:
    """Write until there is no room left, and leave it so."""
    with file.open("wb", buffering=0) as stream:
        for size in (65536, 512, 1):
            try:
                while True:
                    stream.write(b"\xff" * size)
            except OSError:
                pass
