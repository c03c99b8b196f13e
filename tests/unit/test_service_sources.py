# SPDX-License-Identifier: GPL-2.0-or-later
"""GET /v1/kernels/{release}/sources, and the client that fetches it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from fake_workshop import KERNEL, SOURCES, FakeWorkshop
from starlette.testclient import TestClient

from elivepatch.advisory.sources import KernelSources, etag
from elivepatch.client.api import Refused
from elivepatch.client.cve.server import AdvisoryServer
from elivepatch.model.errors import EnvironmentFault, TrustError
from elivepatch.service import api
from elivepatch.service.server import TOKEN_FILE, assemble
from elivepatch.settings import ClientSettings, ServerSettings

PATH = f"/v1/kernels/{KERNEL.release}/sources"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    state = tmp_path_factory.mktemp("state")
    services = assemble(ServerSettings(state_dir=state), FakeWorkshop(state / "runs.txt"))
    token = (state / TOKEN_FILE).read_text().strip()
    with TestClient(api.create(services), headers={"Authorization": f"Bearer {token}"}) as found:
        yield found


def test_it_is_the_document_with_its_tag(client: TestClient) -> None:
    answer = client.get(PATH)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert KernelSources.decode(answer.content) == SOURCES
    assert answer.headers["etag"] == etag(answer.content)


def test_what_the_client_has_is_not_sent_again(client: TestClient) -> None:
    again = client.get(PATH, headers={"If-None-Match": client.get(PATH).headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(PATH, headers={"If-None-Match": '"another"'}).status_code == 200


def test_an_unknown_kernel_is_a_problem(client: TestClient) -> None:
    answer = client.get("/v1/kernels/5.10.0-1-amd64/sources")
    assert answer.json()["code"] == "kernel-unknown"


def test_it_needs_a_token(client: TestClient) -> None:
    assert client.get(PATH, headers={"Authorization": ""}).status_code == 401


def answering(status: int, content: bytes, kind: str = "application/json") -> AdvisoryServer:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=content, headers={"Content-Type": kind})

    return AdvisoryServer(ClientSettings(), transport=httpx2.MockTransport(answer))


def test_the_client_keeps_what_it_has_where_nothing_changed() -> None:
    known = SOURCES.encode()
    assert answering(304, b"").sources(KERNEL.release, known=known) is known
    assert answering(200, known).sources(KERNEL.release, known=None) == known


def test_a_server_that_tells_about_another_kernel_is_not_believed() -> None:
    with pytest.raises(TrustError) as caught:
        answering(200, SOURCES.encode()).sources("6.1.0-51-cloud-amd64", known=None)
    assert caught.value.problem.code == "other-kernel"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"<html>", b"\xff\xfe"])
def test_an_answer_that_is_no_such_document_is_garbage(content: bytes) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        answering(200, content).sources(KERNEL.release, known=None)
    assert caught.value.problem.code == "server-answer"


def test_a_server_without_the_route_says_so_in_its_own_words() -> None:
    problem = b'{"code": "not-found", "kind": "usage", "message": "There is nothing.", "advice": "Update it."}'
    with pytest.raises(Refused):
        answering(404, problem, "application/problem+json").sources(KERNEL.release, known=None)
