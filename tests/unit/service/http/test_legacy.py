# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire protocol of 2017, spoken by an old client that was rebuilt from its description."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_backend
import httpx2
import pytest
from assembled import Assembled, assembled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Digest
from elivepatch.service.access.accounts import Role
from elivepatch.service.http.addresses import is_in, parse_networks
from elivepatch.service.http.routes import api, legacy
from elivepatch.service.http.server import assemble
from elivepatch.settings import ServerSettings

CONFIG = b"CONFIG_LIVEPATCH=y\nCONFIG_X=m\n"
VERSION = "6.1.0"
NOT_THESE = {"message": "These are not the         patches you are looking for"}


class OldClient:
    """Requests of the client of 2019: everything in one request, then one request for the module."""

    def __init__(self, server: Assembled) -> None:
        self.http = server.http
        self.identifier = str(uuid.uuid4())

    def send(
        self, main: bytes | None, *patches: bytes, config: bytes | None = CONFIG, version: str | None = VERSION
    ) -> httpx2.Response:
        parts = [("patch", f"{number:05}.patch", content) for number, content in enumerate(patches)]
        parts += [("main_patch", "main.patch", main)] if main is not None else []
        parts += [("config", "/proc/self/cwd/../config", config)] if config is not None else []
        boundary = "a1b2c3d4e5f60718"
        body = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
            "Content-Type: multipart/form-data\r\nExpires: 0\r\n\r\n".encode()
            + content
            + b"\r\n"
            for field, name, content in parts
        )
        headers = {"UUID": self.identifier, "Content-Type": f"multipart/form-data; boundary={boundary}"}
        if version is not None:
            headers["KernelVersion"] = version
        return self.http.post(
            "/elivepatch/api/v1.0/get_files",
            content=body + f"--{boundary}--\r\n".encode(),
            headers=headers | {"Authorization": ""},
        )

    def fetch(self) -> httpx2.Response:
        return self.http.request(
            "GET",
            "/elivepatch/api/v1.0/send_livepatch",
            content=json.dumps({"KernelVersion": VERSION, "UUID": self.identifier}),
            headers={"Content-Type": "application/json", "Authorization": ""},
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    known = replace(fake_backend.KERNEL, config_digest=Digest(hashlib.sha256(CONFIG).hexdigest()))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fake_backend, "KERNEL", known)
        state = tmp_path_factory.mktemp("state")
        with assembled(state, legacy="127.0.0.0/8", legacy_tenant="old") as found:
            yield found


def test_the_module_is_the_one_that_the_new_api_gives(server: Assembled) -> None:
    client = OldClient(server)
    sent = client.send(b"sleep 0.3\nmain\r\n--not-a-boundary\r\n", b"first\n", b"second\n")
    assert (sent.status_code, sent.json()) == (
        201,
        {"get_config": {"KernelVersion": None, "UUID": client.identifier}},
    )
    got = client.fetch()
    assert got.status_code == 200
    assert got.headers["content-type"] == ", application/octet-stream"
    jobs = server.http.get("/v1/builds").json()["builds"]
    sums = [patch["sha256"] for patch in jobs[0]["patches"]]
    assert sums == [
        hashlib.sha256(content).hexdigest()
        for content in (b"first\n", b"second\n", b"sleep 0.3\nmain\r\n--not-a-boundary\r\n")
    ]
    assert server.http.get(f"/v1/builds/{jobs[0]['id']}/module").content == got.content
    own = server.http.get("/v1/builds", headers=server.token("old", Role.APPROVER, tenant="old")).json()["builds"]
    assert [job["id"] for job in own] == [jobs[0]["id"]]


@pytest.mark.parametrize("patch", [b"verdict", b"compile-error", b"broken-environment"])
def test_a_build_that_fails_is_201_at_first_and_no_module_then(server: Assembled, patch: bytes) -> None:
    client = OldClient(server)
    assert client.send(patch).status_code == 201
    got = client.fetch()
    assert (got.status_code, got.json()) == (403, NOT_THESE)


def test_a_kernel_that_cannot_be_told_is_refused_with_words_that_the_old_client_prints(server: Assembled) -> None:
    for change in ({"version": "5.1.6"}, {"config": CONFIG + b"CONFIG_Y=y\n"}, {"version": "../../x"}):
        client = OldClient(server)
        refused = client.send(b"sleep 0", **change)
        assert refused.status_code == 403
        assert refused.json()["message"].startswith("The server cannot identify the kernel")
        assert client.fetch().json() == NOT_THESE


def test_what_is_malformed_is_the_old_server_s_internal_error(server: Assembled) -> None:
    broken = (500, {"message": "Internal Server Error"})
    for wrong in ({"config": None}, {"version": None}):
        answer = OldClient(server).send(b"sleep 0", **wrong)
        assert (answer.status_code, answer.json()) == broken
    answer = OldClient(server).send(None)
    assert (answer.status_code, answer.json()) == broken
    client = OldClient(server)
    client.identifier = "../../../etc/passwd"
    for answer in (client.send(b"sleep 0"), client.fetch()):
        assert (answer.status_code, answer.json()) == broken


def test_an_identifier_is_good_for_one_exchange(server: Assembled) -> None:
    client = OldClient(server)
    assert client.send(b"sleep 0\nonce").status_code == 201
    assert client.send(b"sleep 0\ntwice").status_code == 500
    assert client.fetch().status_code == 200


def test_the_other_methods_and_the_agents(server: Assembled) -> None:
    old = "/elivepatch/api"
    for method, path in (("GET", "/v1.0/get_files"), ("POST", "/v1.0/send_livepatch")):
        answer = server.http.request(method, old + path)
        assert (answer.status_code, answer.json()) == (403, NOT_THESE)
    for path in ("/", "/v1.0/agent"):
        assert server.http.get(old + path).json()["agent"][0] == {"module": "elivepatch", "version": "0.01"}
        made = server.http.post(old + path, json={"module": "m", "version": "1"})
        assert (made.status_code, made.json()) == (201, {"agent": {"module": "m", "version": "1"}})
    missing = server.http.post(old + "/v1.0/agent", json={"version": "1"})
    assert (missing.status_code, missing.json()) == (400, {"message": {"module": "No task title provided"}})
    assert {"module": "m", "version": "1"} in server.http.get(old + "/").json()["agent"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    body=st.binary(max_size=400), kind=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
)
def test_no_body_makes_the_server_fail(server: Assembled, body: bytes, kind: str) -> None:
    for method, path in (("POST", "get_files"), ("GET", "send_livepatch"), ("POST", "agent")):
        answer = server.http.request(
            method,
            f"/elivepatch/api/v1.0/{path}",
            content=body,
            headers={"Content-Type": "multipart/form-data; boundary=" + kind, "UUID": "x", "KernelVersion": VERSION},
        )
        assert answer.headers["content-type"] == "application/json"
        assert "message" in answer.json() or answer.status_code == 201


def test_addresses_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError):
        legacy._networks("10.0.0.0/8, nonsense")
    for address, let_in in (("10.1.2.3", True), ("2001:db8::1", True), ("192.0.2.1", False), ("", False)):
        assert is_in(address, parse_networks("10.0.0.0/8, 2001:db8::/32")) is let_in


@pytest.mark.parametrize("options", [{"legacy": "192.0.2.0/24"}, {}])
def test_clients_of_other_addresses_see_nothing_and_it_is_off_by_default(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    services = assemble(
        ServerSettings(state_dir=tmp_path, **options),
        fake_backend.FakeBackend(tmp_path / "runs.txt"),
    )
    with TestClient(api.create(services), client=("127.0.0.1", 5)) as http:
        answer = http.get("/elivepatch/api/v1.0/agent")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    services.resources.close()


def test_a_line_of_a_patch_that_begins_like_a_delimiter_ends_no_part() -> None:
    patch = b"+--\r\n--edge-of-something\r\n--edge--x\r\n-old"
    head = b'Content-Disposition: form-data; name="%b"\r\n\r\n'
    body = b"--edge\r\n" + head % b"main_patch" + patch + b"\r\n--edge  \r\n" + head % b"config" + b"X=y\r\n--edge--"
    parts = legacy._parts("multipart/form-data; boundary=edge", body + b"\r\n")
    assert parts == {"patch": [], "main_patch": [patch], "config": [b"X=y"]}
