# SPDX-License-Identifier: GPL-2.0-or-later
"""Uploaded patches: each goes up once, is named by its digest after that, and is known to its tenant alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import obstore
import pytest
import sqlalchemy as sa
from assembled import Assembled, assembled
from fake_backend import KERNEL

from elivepatch.client.server.api import INLINE_BYTES, ServerClient
from elivepatch.files.digest import sha256
from elivepatch.model.build import BuildRequest
from elivepatch.model.series import SERIES_LIMIT_BYTES, PatchSeries, SourcePatch
from elivepatch.service import patches as uploaded_patches
from elivepatch.service.access.accounts import Role
from elivepatch.service.db.tables import patches
from elivepatch.service.retention import Retention
from elivepatch.settings import ClientSettings

CONTENT = b"sleep 0\nuploaded"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    with assembled(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def content(request: pytest.FixtureRequest) -> bytes:
    """Return a patch of this test's own."""
    return CONTENT + str(request.node.name).encode()


def put(server: Assembled, content: bytes, headers: dict[str, str] | None = None) -> httpx2.Response:
    return server.http.put(f"/v1/patches/{sha256(content)}", content=content, headers=headers)


def missing(server: Assembled, *contents: bytes, headers: dict[str, str] | None = None) -> list[str]:
    digests = [sha256(content) for content in contents]
    answer = server.http.post("/v1/patches/missing", json={"sha256": digests}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["missing"]
    return found


def submit(server: Assembled, *contents: bytes, headers: dict[str, str] | None = None) -> httpx2.Response:
    """Submit a build of patches by their digests."""
    named = [{"name": f"{number}.patch", "sha256": sha256(one)} for number, one in enumerate(contents)]
    return server.http.post("/v1/builds", json={"kernel": KERNEL.release, "patches": named}, headers=headers)


def test_a_patch_is_missing_until_it_is_uploaded(server: Assembled, content: bytes) -> None:
    assert missing(server, content, content, b"other") == [sha256(content), sha256(b"other")]
    assert put(server, content).status_code == 201
    assert missing(server, content, b"other") == [sha256(b"other")]
    assert put(server, content).status_code == 204


def test_a_build_of_uploaded_patches_is_the_build_of_patches_that_are_sent(server: Assembled, content: bytes) -> None:
    put(server, content)
    named = submit(server, content)
    assert named.status_code == 202
    assert named.json()["patches"] == [{"name": "0.patch", "sha256": sha256(content)}]
    again = server.ask(content.decode())
    assert (again.status_code, again.json()["id"]) == (200, named.json()["id"])


def test_a_patch_that_was_not_uploaded_cannot_be_named(server: Assembled, content: bytes) -> None:
    refused = submit(server, content)
    assert (refused.status_code, refused.json()["code"]) == (404, "blob-unknown")


def test_bytes_of_another_digest_are_discarded(server: Assembled, content: bytes) -> None:
    refused = server.http.put(f"/v1/patches/{sha256(content)}", content=content + b"!")
    assert (refused.status_code, refused.json()["code"]) == (422, "blob-digest")
    assert missing(server, content)


@pytest.mark.parametrize("name", ["x", "0" * 63, "A" * 64, "..%2f" + "0" * 64])
def test_a_path_without_a_digest_takes_no_patch(server: Assembled, name: str) -> None:
    assert server.http.put(f"/v1/patches/{name}", content=b"x").status_code in {404, 405, 422}


def test_no_patch_is_larger_than_24_mib(server: Assembled) -> None:
    large = b"x" * (SERIES_LIMIT_BYTES + 1)
    refused = put(server, large)
    assert (refused.status_code, refused.json()["code"]) == (413, "request-too-large")
    assert put(server, large[:-1]).status_code == 201
    other = b"sleep 0"
    put(server, other)
    both = submit(server, large[:-1], other)
    assert (both.status_code, both.json()["code"]) == (422, "request-too-large") or both.status_code == 413


def test_a_tenant_does_not_learn_what_another_has_uploaded(server: Assembled, content: bytes) -> None:
    red, blue = (server.token(f"p-{name}", Role.PATCHER, tenant=name) for name in ("red", "blue"))
    assert put(server, content, red).status_code == 201
    assert missing(server, content, headers=blue) == [sha256(content)]
    assert submit(server, content, headers=blue).json()["code"] == "blob-unknown"
    assert server.http.head(f"/v1/blobs/{sha256(content)}", headers=blue).status_code == 404
    assert put(server, content, blue).status_code == 201
    assert submit(server, content, headers=blue).status_code == 202


def test_bytes_that_two_tenants_upload_are_stored_once(server: Assembled, content: bytes) -> None:
    for name in ("first", "second"):
        put(server, content, server.token(f"once-{name}", Role.PATCHER, tenant=name))
    assert len([file for file in (server.state / "store").rglob("*") if file.name == sha256(content)]) == 1


def test_a_patch_is_read_from_the_store_once_for_a_job(
    server: Assembled, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, content)
    server.done("sleep 0\nwarm")
    reads: list[str] = []
    get = obstore.get
    blob = f"sha256/{sha256(content)[:2]}/{sha256(content)}"

    def counted(store: Any, path: str, **options: Any) -> Any:
        reads.append(path)
        return get(store, path, **options)

    monkeypatch.setattr(obstore, "get", counted)
    job = submit(server, content).json()["id"]
    while server.http.get(f"/v1/builds/{job}").json()["status"] != "done":
        time.sleep(0.05)
    # By the build. Neither the submission nor the trial needs the bytes.
    assert reads.count(blob) == 1


def test_a_patch_whose_bytes_were_damaged_is_missing_again(server: Assembled, content: bytes) -> None:
    put(server, content)
    digest = sha256(content)
    (server.state / "store" / "sha256" / digest[:2] / digest).write_bytes(b"damaged")
    job = submit(server, content).json()["id"]
    while (report := server.http.get(f"/v1/builds/{job}/report")).status_code == 409:
        time.sleep(0.05)
    assert report.json()["problem"]["code"] == "blob-damaged"
    assert missing(server, content) == [digest]
    put(server, content)
    again = submit(server, content)
    assert (again.status_code, again.json()["id"] != job) == (202, True)


def test_a_patch_goes_a_week_after_the_last_request_that_named_it(server: Assembled, content: bytes) -> None:
    used, unused = content + b"1", content + b"2"
    for one in (used, unused):
        put(server, one)
    resources = server.services.resources
    with resources.database.begin() as connection:
        old = datetime.now(UTC) - timedelta(days=6)
        connection.execute(sa.update(patches).values(used_at=old))
    for blob in (server.state / "store").rglob("*"):
        if blob.is_file():
            os.utime(blob, (time.time() - 9 * 24 * 3600,) * 2)
    assert submit(server, used).status_code == 202
    assert Retention(resources).sweep(now=datetime.now(UTC) + timedelta(days=2))["patches"] >= 1
    assert missing(server, used, unused) == [sha256(unused)]
    left = {file.name for file in (server.state / "store").rglob("*")}
    assert sha256(used) in left
    assert sha256(unused) not in left


def test_the_patches_of_a_tenant_have_a_limit(server: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploaded_patches, "TENANT_BYTES", 3 * 65536)
    full = server.token("full", Role.PATCHER, tenant="full")
    answers = [put(server, f"{number}".encode(), full) for number in range(4)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
    assert answers[-1].json()["code"] == "too-many-uploads"
    assert put(server, b"0", full).status_code == 204


def test_a_client_of_version_0_1_uploads_a_whole_patch_to_its_old_path(server: Assembled, content: bytes) -> None:
    path = f"/v1/blobs/{sha256(content)}"
    assert server.http.head(path).status_code == 404
    sent = server.http.put(path, content=content, headers={"Upload-Complete": "?1", "Upload-Length": str(len(content))})
    assert (sent.status_code, sent.headers["upload-complete"]) == (201, "?1")
    assert server.http.head(path).headers["upload-complete"] == "?1"
    assert submit(server, content).status_code == 202
    part = server.http.put(path, content=content, headers={"Upload-Complete": "?0"})
    assert (part.status_code, part.json()["code"]) == (415, "upload-type")


class Requests:
    """Requests of the client to the server, by method and path."""

    def __init__(self, server: Assembled) -> None:
        self.seen: list[str] = []
        self._server = server

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(f"{request.method} {request.url.path}")
        headers = {"content-type": request.headers.get("content-type", "")}
        answer = self._server.http.request(request.method, request.url.path, content=request.content, headers=headers)
        return httpx2.Response(answer.status_code, content=answer.content, headers=answer.headers)


def test_the_client_uploads_each_patch_of_a_growing_series_once(server: Assembled) -> None:
    series = [b"sleep 0\n" + f"{number}".encode() + b"x" * INLINE_BYTES for number in range(3)]
    requests = Requests(server)
    client = ServerClient(ClientSettings(), transport=httpx2.MockTransport(requests))
    jobs = [
        client.submit(
            BuildRequest(
                release=KERNEL.release,
                series=PatchSeries(tuple(SourcePatch(f"{number}", one) for number, one in enumerate(series[:length]))),
            )
        )
        for length in (1, 2, 3, 3)
    ]
    assert jobs[2] == jobs[3]
    assert [one for one in requests.seen if one.startswith("PUT")] == [
        f"PUT /v1/patches/{sha256(one)}" for one in series
    ]
    assert requests.seen[-2:] == ["POST /v1/patches/missing", "POST /v1/builds"]


def test_the_client_sends_a_small_series_in_one_request(server: Assembled) -> None:
    requests = Requests(server)
    client = ServerClient(ClientSettings(), transport=httpx2.MockTransport(requests))
    client.submit(BuildRequest(release=KERNEL.release, series=PatchSeries((SourcePatch("x", b"sleep 0\nsmall"),))))
    assert requests.seen == ["POST /v1/builds"]
