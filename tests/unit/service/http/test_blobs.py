# SPDX-License-Identifier: GPL-2.0-or-later
"""Uploading: in as many requests as it takes, checked at its end, each tenant's own, and not for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from assembled import Assembled, assembled
from blobs import ask, begin, left_on_disk, path_of, refused, resume, stands
from fake_backend import KERNEL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elivepatch.model.errors import UsageError
from elivepatch.service import uploads
from elivepatch.service.access.accounts import Role
from elivepatch.service.store import digest_of
from elivepatch.service.uploads import MAX_UPLOAD_BYTES, WrongOffset

CONTENT = b"sleep 0\nuploaded\n" * 1000
DAY_S = 24 * 3600


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    with assembled(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def content(request: pytest.FixtureRequest) -> bytes:
    """Bytes that no other test uploads."""
    return str(request.node.name).encode() + CONTENT


def test_a_blob_is_uploaded_at_once_and_again_for_nothing(server: Assembled, content: bytes) -> None:
    assert server.http.head(path_of(content)).status_code == 404
    made = server.http.put(path_of(content), content=content)
    assert stands(made) == (201, len(content), "?1")
    assert made.headers["location"] == path_of(content)
    assert stands(server.http.put(path_of(content), content=content)) == (204, len(content), "?1")
    assert stands(resume(server, content, b"more", offset=len(content))) == (204, len(content), "?1")
    found = server.http.head(path_of(content))
    assert stands(found) == (204, len(content), "?1")
    assert found.headers["upload-length"] == str(len(content))
    assert found.headers["upload-limit"] == f"max-size={24 * 1024 * 1024}"
    assert found.headers["cache-control"] == "no-store"
    assert left_on_disk(server, digest_of(content)) == []


def test_a_blob_is_uploaded_in_parts(server: Assembled, content: bytes) -> None:
    assert stands(begin(server, content, content[:5], Upload_Length=str(len(content)))) == (201, 5, "?0")
    assert stands(server.http.head(path_of(content))) == (204, 5, "?0")
    assert stands(resume(server, content, content[5:100], offset=5, complete=False)) == (204, 100, "?0")
    assert stands(resume(server, content, content[100:], offset=100, complete=False)) == (204, len(content), "?0")
    assert stands(resume(server, content, b"", offset=len(content))) == (204, len(content), "?1")
    assert left_on_disk(server, digest_of(content)) == []


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(st.binary(max_size=2000), max_size=6), ends=st.booleans())
def test_however_a_blob_is_cut_it_is_the_same_in_the_end(server: Assembled, pieces: list[bytes], ends: bool) -> None:
    whole = b"".join(pieces)
    if server.http.head(path_of(whole)).status_code == 204:
        return
    begin(server, whole, b"")
    offset = 0
    for number, piece in enumerate(pieces):
        last = ends and number == len(pieces) - 1
        assert resume(server, whole, piece, offset=offset, complete=last).status_code == 204
        offset += len(piece)
    resume(server, whole, b"", offset=offset)
    assert stands(server.http.head(path_of(whole))) == (204, len(whole), "?1")
    assert server.services.resources.uploads.get("default", digest_of(whole)) == whole


def test_an_upload_goes_on_where_it_stands_and_nowhere_else(server: Assembled, content: bytes) -> None:
    begin(server, content, content[:50])
    for offset in (0, 49, 51, 10**15 - 1):
        answer = resume(server, content, b"", offset=offset)
        if offset < MAX_UPLOAD_BYTES:
            refused(answer, 409, "upload-offset")
            assert answer.headers["upload-offset"] == "50"
        else:
            refused(answer, 413, "request-too-large")
    assert stands(server.http.head(path_of(content))) == (204, 50, "?0")


def test_what_was_never_begun_is_not_gone_on_with(server: Assembled, content: bytes) -> None:
    refused(resume(server, content, b"x", offset=0), 404, "blob-unknown")


def test_an_upload_that_is_begun_again_begins_at_its_first_byte(server: Assembled, content: bytes) -> None:
    begin(server, content, b"something else")
    assert stands(begin(server, content, content[:7])) == (201, 7, "?0")
    assert stands(resume(server, content, content[7:], offset=7)) == (204, len(content), "?1")


def test_bytes_of_another_digest_are_discarded(server: Assembled, content: bytes) -> None:
    refused(server.http.put(path_of(content), content=content + b"!"), 422, "blob-digest")
    assert server.http.head(path_of(content)).status_code == 404
    begin(server, content, b"!")
    refused(resume(server, content, content, offset=1), 422, "blob-digest")
    assert server.http.head(path_of(content)).status_code == 404
    assert left_on_disk(server, digest_of(content)) == []
    assert ask(server, content).status_code == 404


def test_more_than_was_announced_is_not_taken(server: Assembled, content: bytes) -> None:
    length: dict[str, Any] = {"Upload_Length": "100"}
    refused(begin(server, content, content[:101], **length), 422, "upload-length")
    assert stands(server.http.head(path_of(content))) == (204, 0, "?0")
    begin(server, content, content[:60], **length)
    refused(resume(server, content, content[60:], offset=60, **length), 422, "upload-length")
    assert stands(server.http.head(path_of(content))) == (204, 60, "?0")
    refused(resume(server, content, b"", offset=60, Upload_Length="10"), 422, "upload-length")


def test_less_than_was_announced_is_not_all_of_it(server: Assembled, content: bytes) -> None:
    more = {"Upload-Length": str(len(content))}
    refused(server.http.put(path_of(content), content=content[:-1], headers=more), 422, "upload-length")
    assert stands(server.http.head(path_of(content))) == (204, len(content) - 1, "?0")
    assert stands(resume(server, content, content[-1:], offset=len(content) - 1)) == (204, len(content), "?1")


def test_no_upload_is_larger_than_24_mib(server: Assembled, content: bytes) -> None:
    piece = b" " * (MAX_UPLOAD_BYTES // 2)
    refused(begin(server, content, b"", Upload_Length=str(MAX_UPLOAD_BYTES + 1)), 413, "request-too-large")
    refused(begin(server, content, piece * 2 + b" "), 413, "request-too-large")
    assert left_on_disk(server, digest_of(content)) == []
    # In chunks there is no Content-Length to look at.
    refused(server.http.put(path_of(content), content=iter([piece, piece, b" "])), 413, "request-too-large")
    begin(server, content, piece)
    refused(resume(server, content, piece + b" ", offset=len(piece)), 413, "request-too-large")
    assert stands(server.http.head(path_of(content))) == (204, len(piece), "?0")
    largest = bytes(MAX_UPLOAD_BYTES)
    assert stands(server.http.put(path_of(largest), content=largest)) == (201, len(largest), "?1")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Upload-Offset": None}, 422, "request-invalid"),
        ({"Upload-Offset": "-1"}, 422, "request-invalid"),
        ({"Upload-Offset": "9" * 5000}, 422, "request-invalid"),
        ({"Upload-Complete": None}, 422, "request-invalid"),
        ({"Upload-Complete": "1"}, 422, "request-invalid"),
        ({"Upload-Length": "x"}, 422, "request-invalid"),
        ({"Content-Type": "application/octet-stream"}, 415, "upload-type"),
    ],
)
def test_what_is_malformed_changes_nothing(
    server: Assembled, content: bytes, headers: dict[str, str | None], status: int, code: str
) -> None:
    begin(server, content, content[:10])
    good = {"Upload-Offset": "10", "Upload-Complete": "?1", "Content-Type": "application/partial-upload"}
    sent = {name: value for name, value in (good | headers).items() if value is not None}
    refused(server.http.patch(path_of(content), content=content[10:], headers=sent), status, code)
    assert stands(server.http.head(path_of(content))) == (204, 10, "?0")


@pytest.mark.parametrize("name", ["x", "A" * 64, "a" * 63, "a" * 65, "..%2f" + "a" * 59, "%00"])
def test_what_is_no_digest_names_no_blob(server: Assembled, name: str) -> None:
    for method in ("HEAD", "PUT", "PATCH"):
        assert server.http.request(method, f"/v1/blobs/{name}", content=b"x").status_code in {404, 422}


def test_a_request_that_takes_an_upload_over_ends_the_one_before(server: Assembled, content: bytes) -> None:
    held, digest = server.services.resources.uploads, digest_of(content)
    first = held.begin("default", digest, length=None)
    assert first is not None
    first.write(content[:10])
    assert held.standing("default", digest).offset == 10
    second = held.resume("default", digest, offset=10, length=None)
    assert second is not None
    too_late: list[Callable[[], object]] = [lambda: first.write(b"late"), first.finish]
    for late in too_late:
        with pytest.raises(UsageError) as over:
            late()
        assert over.value.problem.code == "upload-taken-over"
    second.write(content[10:])
    second.finish()
    assert held.get("default", digest) == content


def test_many_who_send_the_same_upload_at_once_make_it_whole_or_are_told_why_not(
    server: Assembled, content: bytes
) -> None:
    held, digest = server.services.resources.uploads, digest_of(content)
    told: list[str] = []

    def send() -> None:
        for _ in range(200):
            try:
                offset, turn = attempt()
                if turn is None:
                    return
                for start in range(offset, len(content), 997):
                    turn.write(content[start : min(start + 997, len(content))])
                turn.finish()
            except WrongOffset:
                continue
            except UsageError as error:
                told.append(error.problem.code)

    def attempt() -> tuple[int, uploads.Turn | None]:
        try:
            here = held.standing("default", digest)
        except UsageError as error:
            if error.problem.code != "blob-unknown":
                raise
            return 0, held.begin("default", digest, length=None)
        turn = None if here.complete else held.resume("default", digest, offset=here.offset, length=None)
        return here.offset, turn

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(timeout=30)
    assert set(told) <= {"upload-taken-over"}, "two at a time would have mixed their bytes"


def test_a_build_of_what_was_uploaded_is_that_of_what_was_sent(server: Assembled, content: bytes) -> None:
    refused(ask(server, content), 404, "blob-unknown")
    begin(server, content, content[:-1])
    refused(ask(server, content), 404, "blob-unknown")
    resume(server, content, content[-1:], offset=len(content) - 1)
    asked = ask(server, content)
    assert asked.status_code == 202
    assert asked.json()["patches"] == [{"name": "fix.patch", "sha256": digest_of(content)}]
    again = server.ask(content.decode())
    assert (again.status_code, again.json()["id"]) == (200, asked.json()["id"])
    assert server.done(content.decode())["result"] == "success"


def test_a_series_may_have_both(server: Assembled, content: bytes) -> None:
    server.http.put(path_of(content), content=content)
    patches = [{"name": "a", "sha256": digest_of(content)}, {"name": "b", "content": "c2xlZXAgMA=="}]
    asked = server.http.post("/v1/builds", json={"kernel": KERNEL.release, "patches": patches})
    assert [patch["sha256"] for patch in asked.json()["patches"]] == [digest_of(content), digest_of(b"sleep 0")]


def test_patches_that_are_named_may_have_24_mib_in_all(server: Assembled) -> None:
    large = b"y" * (MAX_UPLOAD_BYTES // 2 + 1)
    server.http.put(path_of(large), content=large)
    refused(ask(server, large, large), 413, "request-too-large")


def test_a_damaged_blob_is_no_blob_and_can_be_uploaded_again(server: Assembled, content: bytes) -> None:
    server.http.put(path_of(content), content=content)
    (file,) = (server.state / "store" / "uploads").rglob(digest_of(content))
    file.write_bytes(b"torn")
    refused(ask(server, content), 404, "blob-unknown")
    assert server.http.head(path_of(content)).status_code == 404
    assert server.http.put(path_of(content), content=content).status_code == 201
    assert ask(server, content).status_code == 202


def test_a_tenant_does_not_learn_what_another_has_uploaded(server: Assembled, content: bytes) -> None:
    red = server.token("red-blobs", Role.PATCHER, tenant="red")
    blue = server.token("blue-blobs", Role.PATCHER, tenant="blue")
    path, part = path_of(content), path_of(content + b"part")
    partly = {"Upload-Complete": "?0"}
    assert server.http.put(path, content=content, headers=red).status_code == 201
    assert server.http.put(part, content=content, headers=red | partly).status_code == 201
    for theirs in (path, part):
        assert server.http.head(theirs, headers=blue).status_code == 404
        more = {"Upload-Offset": "0", "Upload-Complete": "?1", "Content-Type": "application/partial-upload"}
        refused(server.http.patch(theirs, content=b"", headers=blue | more), 404, "blob-unknown")
    refused(ask(server, content, headers=blue), 404, "blob-unknown")
    assert ask(server, content, headers=red).status_code == 202
    # A job that has it does not tell either.
    refused(ask(server, content, headers=blue), 404, "blob-unknown")
    assert server.http.put(path, content=content, headers=blue).status_code == 201, "all of it is sent again"
    assert ask(server, content, headers=blue).status_code == 202
    assert server.http.head(path).status_code == 404, "the operator's tenant is another one still"


def test_a_submitter_may_upload_any_patch_and_build_trusted_ones(server: Assembled, content: bytes) -> None:
    submitter = server.token("sub-blobs", Role.SUBMITTER)
    assert server.http.put(path_of(content), content=content, headers=submitter).status_code == 201
    refused(ask(server, content, headers=submitter), 403, "patch-not-trusted")
