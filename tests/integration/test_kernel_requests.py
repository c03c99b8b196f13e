# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that a server does not know: a request makes the base once, durably, and every client gets its livepatch."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from deadline import wait_until
from pushing_host import BUILD_ID, RELEASE, pushing_host, put
from running_server import RunningServer

from elivepatch.client.host.machine import Host
from elivepatch.client.push.kernel_files import PushOptions, find_kernel_files
from elivepatch.client.push.push import Sent, push_kernel
from elivepatch.client.server.api import ServerClient
from elivepatch.files.digest import sha256
from elivepatch.model.kernel import Release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Progress, silent
from elivepatch.process import Completed, run
from elivepatch.settings import ClientSettings

pytestmark = pytest.mark.integration

UNKNOWN = "6.12.99-elsewhere"
PATCH = base64.b64encode(b"sleep 0").decode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with RunningServer(tmp_path / "state") as running:
        yield running


def ask(server: RunningServer, **more: Any) -> httpx2.Response:
    return server.request("POST", "/v1/kernels", json={"release": UNKNOWN} | more)


def client(server: RunningServer, directory: Path, *words: str) -> Completed:
    """Run the client program as a person does, in a directory of its own."""
    (directory / "fix.patch").write_text("sleep 0\n")
    options = ["-u", server.url, "--token-file", str(server.token_file), "--json"]
    return run([sys.executable, "-m", "elivepatch", *words, *options], cwd=directory, timeout_s=90)


def test_five_clients_that_ask_at_once_get_five_livepatches_of_one_base(server: RunningServer, tmp_path: Path) -> None:
    done: dict[int, Completed] = {}

    def build(number: int) -> None:
        directory = tmp_path / f"host-{number}"
        directory.mkdir()
        done[number] = client(server, directory, "build", "fix.patch", "--kernel", UNKNOWN, "-o", "out.ko")

    threads = [threading.Thread(target=build, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.status for one in done.values()] == [0] * 5, [one.text for one in done.values()]
    assert all((tmp_path / f"host-{number}/out.ko").read_bytes()[:4] == b"\x7fELF" for number in range(5))
    assert server.backend.runs(f"base {UNKNOWN}") == 1
    jobs = server.request("GET", "/v1/builds").json()["builds"]
    assert sorted(job["makes"] for job in jobs) == ["base", "livepatch"]


def test_a_base_whose_server_is_killed_is_made_after_the_restart(server: RunningServer, tmp_path: Path) -> None:
    job = ask(server, distribution="sleep 1.5").json()["job"]
    server.wait_for(f"base {UNKNOWN}")
    server.kill()
    server.start()
    assert server.request("GET", f"/v1/builds/{job}/report").status_code == 409
    report = server.report(job)
    assert (report["result"], report["base"]["release"]) == ("success", UNKNOWN)
    assert server.backend.runs(f"base {UNKNOWN}") == 2
    assert client(server, tmp_path, "check", "fix.patch", "--kernel", UNKNOWN).status == 0


def test_requests_of_known_kernels_are_answered_while_a_base_is_made(server: RunningServer) -> None:
    job = ask(server, distribution="sleep 20").json()["job"]
    server.wait_for(f"base {UNKNOWN}")
    assert server.report(server.ask("sleep 0"))["result"] == "success"
    assert server.request("GET", f"/v1/builds/{job}").json()["status"] == "running"
    assert server.request("DELETE", f"/v1/builds/{job}").status_code == 200
    assert server.report(job)["result"] == "cancelled"
    assert UNKNOWN not in server.request("GET", "/v1/kernels").text


def test_equal_requests_share_a_job_while_it_runs_and_the_kernel_is_known_afterwards(server: RunningServer) -> None:
    first = ask(server, distribution="sleep 1")
    second = ask(server, distribution="sleep 1")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    server.report(first.json()["job"])
    third = ask(server, distribution="sleep 1")
    assert (third.status_code, third.json()["job"], third.json()["kernel"]["release"]) == (200, None, UNKNOWN)


def test_a_kernel_that_no_provider_has_is_refused_with_the_providers_words_and_asked_for_again(
    server: RunningServer,
) -> None:
    first = ask(server, distribution="not-provided").json()["job"]
    report = server.report(first)
    assert (report["result"], report["problem"]["code"]) == ("error", "kernel-not-provided")
    assert ask(server, distribution="not-provided").json()["job"] != first


def test_a_crash_while_a_base_is_made_costs_that_job_only(server: RunningServer) -> None:
    job = ask(server, distribution="segfault").json()["job"]
    assert server.report(job)["problem"]["code"] == "step-crashed"
    assert server.report(server.ask("sleep 0"))["result"] == "success"


def test_the_job_shows_its_progress_and_its_log(server: RunningServer) -> None:
    job = ask(server, distribution="sleep 0.5").json()["job"]
    server.report(job)
    events = server.events(job)
    assert any(event.get("stage") == "base" for event in events)
    assert server.request("GET", f"/v1/builds/{job}/log").text == f"making {UNKNOWN}\n"
    assert server.request("GET", f"/v1/builds/{job}/module").json()["code"] == "file-unknown"


def test_a_base_that_is_followed_is_not_called_a_livepatch(server: RunningServer, tmp_path: Path) -> None:
    job = ask(server, distribution="sleep 0.5").json()["job"]
    followed = client(server, tmp_path, "build", "--follow", job)
    document = json.loads(followed.text)
    assert (followed.status, document["base"]["release"], document["livepatch"]) == (0, UNKNOWN, None)
    options = ["-u", server.url, "--token-file", str(server.token_file)]
    told = run([sys.executable, "-m", "elivepatch", "build", "--follow", job, *options], cwd=tmp_path, timeout_s=90)
    assert f"the server can build for {UNKNOWN}" in told.text
    assert "livepatch for" not in told.text


def test_another_tenant_neither_sees_the_job_nor_waits_for_a_second_base(server: RunningServer) -> None:
    made = server.request("POST", "/v1/tokens", json={"name": "other", "role": "patcher", "tenant": "other"}).json()
    job = ask(server, distribution="sleep 1").json()["job"]
    headers = {"Authorization": f"Bearer {made['token']}"}
    with httpx2.Client(base_url=server.url, headers=headers, trust_env=False, timeout=20) as other:
        theirs = other.post("/v1/kernels", json={"release": UNKNOWN}).json()["job"]
        assert theirs not in {None, job}
        assert other.get(f"/v1/builds/{job}").json()["code"] == "build-unknown"
        wait_until(lambda: other.get(f"/v1/builds/{theirs}").json()["status"] == "done", within_s=30)


def test_a_server_without_providers_says_so(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "state", environment={"ELIVEPATCH_PROVIDERS": ""}) as server:
        refused = client(server, tmp_path, "build", "fix.patch", "--kernel", UNKNOWN)
        assert refused.status == 4
        problem = json.loads(refused.text)["problem"]
        assert problem["code"] == "kernel-unknown"
        assert "kernel add" in problem["advice"]


def push(server: RunningServer, host: Host, progress: Progress = silent) -> tuple[str | None, Sent]:
    settings = ClientSettings(url=server.url, token=server.token_file.read_text().strip())
    with ServerClient(settings) as api:
        return push_kernel(host, find_kernel_files(host, PushOptions()), api, progress)


def test_a_host_pushes_its_kernel_and_a_second_push_sends_only_what_changed(
    server: RunningServer, tmp_path: Path
) -> None:
    host = pushing_host(tmp_path / "host")
    shown: list[str] = []
    job, sent = push(server, host, lambda event: shown.append(event.message))
    assert job is not None
    assert shown == ["the build's files: 1 pieces, 1 sent (0 MiB)", "the source: 1 pieces, 1 sent (0 MiB)"]
    assert (sent.pieces, sent.sent) == (2, 2)
    report = server.report(job)
    assert (report["base"]["release"], report["base"]["build_id"]) == (RELEASE, BUILD_ID)
    log = server.request("GET", f"/v1/builds/{job}/log").text
    assert log == f"making {RELEASE} from files.tar.gz from source.tar.gz\n"
    assert push(server, host) == (None, Sent())
    other = pushing_host(tmp_path / "other")
    put(other.root, "proc/sys/kernel/osrelease", b"6.12.40-ours2\n")
    for name in (f"boot/vmlinuz-{RELEASE}", f"boot/config-{RELEASE}"):
        (other.root / name).rename(other.root / f"{name}2")
    (other.root / f"lib/modules/{RELEASE}").rename(other.root / "lib/modules/6.12.40-ours2")
    put(other.root, "boot/vmlinuz-6.12.40-ours2", b"another image")
    _, second = push(server, other)
    assert (second.pieces, second.sent) == (2, 1), "the source is there already"


def test_only_the_operator_pushes_a_kernel_and_a_submitters_configuration_is_not_used(server: RunningServer) -> None:
    sent = server.request("PUT", f"/v1/patches/{sha256(b'x')}", content=b"x")
    assert sent.status_code == 201
    for role in ("submitter", "patcher"):
        made = server.request("POST", "/v1/tokens", json={"name": role, "role": role}).json()
        headers = {"Authorization": f"Bearer {made['token']}"}
        with httpx2.Client(base_url=server.url, headers=headers, trust_env=False, timeout=20) as other:
            for archive in ("files", "source"):
                refused = other.post("/v1/kernels", json={"release": UNKNOWN, archive: [sha256(b"x")]})
                assert refused.json()["code"] == "role-insufficient"
            config = KernelRequest(release=Release(UNKNOWN), config=b"CONFIG_X86_64=y\n").to_json()["config"]
            job = other.post("/v1/kernels", json={"release": f"{UNKNOWN}-{role}", "config": config}).json()["job"]
            log = server.report(job) and server.request("GET", f"/v1/builds/{job}/log").text
            assert ("with a configuration" in log) == (role == "patcher")


def test_pieces_that_were_not_uploaded_are_refused_before_there_is_a_job(server: RunningServer) -> None:
    answer = ask(server, files=["ab" * 32])
    assert (answer.status_code, answer.json()["code"]) == (404, "blob-unknown")
    assert server.request("GET", "/v1/builds").json()["builds"] == []
