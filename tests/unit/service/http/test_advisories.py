# SPDX-License-Identifier: GPL-2.0-or-later
"""GET /v1/kernels/{release}/sources and /v1/cve/records, and the client that fetches them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_backend import KERNEL, SOURCES, FakeBackend
from starlette.testclient import TestClient

from elivepatch.advisory.exposure.sources import KernelSources, etag
from elivepatch.advisory.records.index import decode_index
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Refused
from elivepatch.files.atomic import write_atomic
from elivepatch.model.errors import EnvironmentFault, TrustError
from elivepatch.service import cli
from elivepatch.service.http import signed_file
from elivepatch.service.http.routes import api
from elivepatch.service.http.server import assemble
from elivepatch.service.state_directory import RECORDS_FILE, TOKEN_FILE
from elivepatch.settings import ClientSettings, ServerSettings
from elivepatch.trust.document import HEADER, RECORDS, require_signed, sign_document
from elivepatch.trust.document import SOURCES as SOURCES_TYPE
from elivepatch.trust.keys import PublicKey, ServerKey

PATH = f"/v1/kernels/{KERNEL.release}/sources"
LIST = Path(__file__).parents[2] / "data/cve-list"
KEY = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def client(state: Path) -> Iterator[TestClient]:
    services = assemble(ServerSettings(state_dir=state), FakeBackend(state / "runs.txt"))
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


def test_what_is_told_is_signed_also_where_nothing_changed(client: TestClient) -> None:
    key = PublicKey.from_hex(client.get("/v1/key").json()["public_key"])
    answer = client.get(PATH)
    again = client.get(PATH, headers={"If-None-Match": answer.headers["etag"]})
    for signature in (answer.headers[HEADER], again.headers[HEADER]):
        require_signed([key], SOURCES_TYPE, answer.content, signature)


def test_the_records_are_signed_once_for_each_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signatures: list[bytes] = []

    def counted(key: ServerKey, kind: str, content: bytes) -> str:
        signatures.append(content)
        return sign_document(key, kind, content)

    monkeypatch.setattr(signed_file, "sign_document", counted)
    records = signed_file.SignedFile(tmp_path / "records", RECORDS, KEY)
    for content in (b"first", b"later"):
        write_atomic(tmp_path / "records", content)
        answers = [records.read("") for _ in range(3)]
        assert [answer[1] for answer in answers] == [content] * 3
        assert answers[0][0].tag == etag(content)
        assert records.read(answers[0][0].tag) == (answers[0][0], None)
    assert signatures == [b"first", b"later"]


def test_the_records_are_those_that_the_servers_command_indexed(client: TestClient, state: Path) -> None:
    assert client.get("/v1/cve/records").json()["code"] == "records-unknown"
    index = ["cve", "index", "--state", str(state), "--json", "--records"]
    assert cli.main([*index, str(LIST / "missing")]) == 2
    assert cli.main([*index, str(LIST)]) == 0
    answer = client.get("/v1/cve/records")
    assert len(decode_index(answer.content, "it").listed) == 8
    assert answer.content == (state / RECORDS_FILE).read_bytes()
    key = PublicKey.from_hex(client.get("/v1/key").json()["public_key"])
    require_signed([key], RECORDS, answer.content, answer.headers[HEADER])
    assert cli.main([*index, str(LIST)]) == 0
    again = client.get("/v1/cve/records", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_it_needs_a_token(client: TestClient) -> None:
    assert client.get(PATH, headers={"Authorization": ""}).status_code == 401


def answering(
    status: int, content: bytes, kind: str = "application/json", *, signature: str = "", pinned: bool = False
) -> ServerClient:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=content, headers={"Content-Type": kind, HEADER: signature})

    keys = [KEY.public] if pinned else []
    return ServerClient(ClientSettings(), pinned=keys, transport=httpx2.MockTransport(answer))


def test_the_client_keeps_what_it_has_where_nothing_changed() -> None:
    known = SOURCES.encode()
    assert answering(304, b"").sources(KERNEL.release, known=known) is known
    assert answering(200, known).sources(KERNEL.release, known=None) == known


@pytest.mark.parametrize("status", [200, 304])
def test_a_host_that_trusts_a_server_believes_only_what_that_one_signed(status: int) -> None:
    known = SOURCES.encode()
    content = known if status == 200 else b""
    signed = sign_document(KEY, SOURCES_TYPE, known)
    assert answering(status, content, signature=signed, pinned=True).sources(KERNEL.release, known=known) == known
    for signature in ("", sign_document(KEY, RECORDS, known), sign_document(KEY, SOURCES_TYPE, b"other")):
        with pytest.raises(TrustError) as caught:
            answering(status, content, signature=signature, pinned=True).sources(KERNEL.release, known=known)
        assert caught.value.problem.code == "document-signature"


@pytest.mark.parametrize("code", ["records-unknown", "not-found"])
def test_a_server_without_records_has_none(code: str) -> None:
    problem = b'{"code": "%s", "kind": "usage", "message": "There is nothing.", "advice": "-"}' % code.encode()
    assert answering(404, problem, "application/problem+json").records(known=None) is None
    problem = problem.replace(code.encode(), b"token-refused")
    with pytest.raises(Refused):
        answering(401, problem, "application/problem+json").records(known=None)


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
