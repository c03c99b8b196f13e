# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that a server does not know: the client asks for the base once, and says what an older server says."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from job_server import JOB, KERNEL, PROBLEM, SUCCESS
from pushing_host import BUILD_ID, RELEASE, pushing_host

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Refused
from elivepatch.client.server.kernels import described_kernel, with_kernel
from elivepatch.model.errors import BuildStopped
from elivepatch.model.kernel import parse_release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import silent
from elivepatch.settings import ClientSettings

ASKED = KernelRequest(release=parse_release(KERNEL))
UNKNOWN = {"code": "kernel-unknown", "kind": "error", "message": "No base.", "advice": "Add it.", "excerpt": ""}


class Server:
    """A server that lacks a kernel until its base is made; `made` is its answer to the request for it."""

    def __init__(self, made: httpx2.Response, report: dict[str, object] | None = None) -> None:
        self.made = made
        self.report = report or SUCCESS | {"livepatch": None, "module_sha256": None, "trial": None}
        self.asked: list[str] = []
        self.known = False

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if request.method == "POST" and request.url.path == "/v1/kernels":
            return self.made
        if request.url.path.endswith("/report"):
            self.known = self.report["problem"] is None
            return httpx2.Response(200, json=self.report)
        if request.url.path == f"/v1/builds/{JOB}":
            return httpx2.Response(200, json={"status": "done"})
        if self.known:
            return httpx2.Response(200, json={"kernels": []})
        return refusal(404, UNKNOWN)


def refusal(status: int, problem: dict[str, str]) -> httpx2.Response:
    return httpx2.Response(status, json=problem, headers={"Content-Type": "application/problem+json"})


def asked(server: Server) -> list[object]:
    settings = ClientSettings(token="t")
    with ServerClient(settings, transport=httpx2.MockTransport(server)) as api:
        return list(with_kernel(api, api.kernels, lambda: ASKED, silent))


def test_the_question_is_asked_again_when_the_base_is_made() -> None:
    server = Server(httpx2.Response(202, json={"kernel": None, "job": JOB}))
    assert asked(server) == []
    assert server.asked.count("POST /v1/kernels") == 1
    assert server.asked.count("GET /v1/kernels") == 2


def test_a_base_that_cannot_be_made_ends_with_the_servers_problem() -> None:
    failed = SUCCESS | {
        "result": "error", "problem": PROBLEM, "livepatch": None, "module_sha256": None, "trial": None,
    }  # fmt: skip
    with pytest.raises(BuildStopped) as caught:
        asked(Server(httpx2.Response(202, json={"kernel": None, "job": JOB}), failed))
    assert caught.value.problem.code == PROBLEM["code"]


@pytest.mark.parametrize(
    ("status", "code"), [(405, "method-not-allowed"), (404, "not-found"), (403, "role-insufficient")]
)
def test_a_server_that_makes_no_bases_says_what_it_said_before(status: int, code: str) -> None:
    with pytest.raises(Refused) as caught:
        asked(Server(refusal(status, UNKNOWN | {"code": code})))
    assert caught.value.problem.code == "kernel-unknown"


def test_any_other_refusal_of_the_request_is_told() -> None:
    with pytest.raises(Refused) as caught:
        asked(Server(refusal(507, UNKNOWN | {"code": "disk-full"})))
    assert caught.value.problem.code == "disk-full"


def test_the_running_kernel_is_described_and_of_any_other_only_the_release_is_known(tmp_path: Path) -> None:
    host = pushing_host(tmp_path)
    ours = described_kernel(host, RELEASE)
    assert (ours.build_id, ours.config, ours.distribution) == (BUILD_ID, b"CONFIG_X86_64=y\n", "gentoo 2.17")
    assert ours.compiler == "gcc (Gentoo 13.3.1) 13.3.1"
    assert described_kernel(host, KERNEL) == ASKED
