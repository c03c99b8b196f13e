# SPDX-License-Identifier: GPL-2.0-or-later
"""Large series are uploaded before they are asked for, over lost connections; small ones go in one request."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Refused, Unreachable
from elivepatch.client.server.uploads import LARGE_BYTES, large, upload
from elivepatch.model.build import BuildRequest
from elivepatch.model.errors import EnvironmentFault, Kind, Problem
from elivepatch.model.kernel import Digest
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.settings import ClientSettings

JOB = "0123456789abcdef"
BIG = SourcePatch("big.patch", b"x" * 900_000)
SMALL = SourcePatch("small.patch", b"y" * 100_000)


def lost() -> Unreachable:
    return Unreachable("server-unreachable", "It is away.", advice="Start it.")


def refusal(code: str) -> Refused:
    return Refused(Problem(code=code, kind=Kind.USAGE, message="No.", advice="Do not."))


class Line:
    """A server behind a line that is lost each time after so many bytes; an error in their place is raised."""

    def __init__(self, *carries: int | Exception) -> None:
        self.arrived = b""
        self.complete = False
        self.sent_from: list[int] = []
        self._carries: Iterator[int | Exception] = iter(carries)

    def held(self, digest: Digest) -> int | None:
        assert digest == BIG.digest
        return None if self.complete else len(self.arrived)

    def send(self, digest: Digest, content: bytes, *, offset: int) -> None:
        self.sent_from.append(offset)
        assert (digest, content) == (BIG.digest, BIG.content)
        assert offset in {0, len(self.arrived)}
        carried = next(self._carries, len(content))
        if isinstance(carried, Exception):
            self.arrived = b""
            raise carried
        self.arrived = self.arrived[:offset] + content[offset : offset + carried]
        if len(self.arrived) < len(content):
            raise lost()
        self.complete = True


def bring(line: Line, patch: SourcePatch = BIG) -> list[float]:
    """Upload over a line and return the pauses that were made."""
    pauses: list[float] = []
    upload(line, patch, sleep=pauses.append)
    return pauses


@given(st.lists(st.integers(0, 400_000), max_size=40))
def test_what_arrives_is_what_was_sent_or_the_line_brings_nothing(carries: list[int]) -> None:
    line = Line(*carries)
    try:
        bring(line)
    except Unreachable:
        assert any(carries[n : n + 5] == [0] * 5 for n in range(len(carries)))
    else:
        assert line.arrived == BIG.content
        assert line.sent_from == sorted(line.sent_from)


def test_an_upload_goes_on_where_the_line_was_lost() -> None:
    line = Line(300_000, 200_000)
    assert len(bring(line)) == 2
    assert line.sent_from == [0, 300_000, 500_000]


def test_what_is_there_is_not_sent() -> None:
    line = Line()
    line.complete = True
    assert bring(line) == []
    assert line.sent_from == []


def test_a_line_that_brings_nothing_is_given_up() -> None:
    line = Line(*[100] * 20, *[0] * 20)
    pauses: list[float] = []
    with pytest.raises(Unreachable):
        upload(line, BIG, sleep=pauses.append)
    assert len(line.sent_from) == 26
    assert max(pauses) <= 5.0


def test_a_server_that_is_not_there_at_all_is_not_waited_for() -> None:
    class Nobody(Line):
        def held(self, digest: Digest) -> int | None:
            super().held(digest)
            raise lost()

    with pytest.raises(Unreachable):
        upload(Nobody(), BIG, sleep=lambda _: pytest.fail("it waits"))


@pytest.mark.parametrize("code", ["upload-offset", "upload-taken-over", "blob-digest"])
def test_an_upload_that_another_disturbed_is_begun_anew(code: str) -> None:
    line = Line(300_000, refusal(code))
    bring(line)
    assert line.sent_from == [0, 300_000, 0]
    with pytest.raises(Refused):
        bring(Line(*[refusal(code)] * 30))


@pytest.mark.parametrize("code", ["role-insufficient", "too-many-uploads", "disk-full"])
def test_what_the_server_does_not_want_is_not_sent_again(code: str) -> None:
    line = Line(refusal(code))
    with pytest.raises(Refused):
        bring(line)
    assert line.sent_from == [0]


def encoded(patch: SourcePatch) -> int:
    return len(base64.b64encode(patch.content))


@given(st.lists(st.integers(0, 600_000), min_size=1, max_size=12))
def test_what_is_left_in_a_request_is_small_and_no_more_is_uploaded_than_need_be(sizes: list[int]) -> None:
    patches = [SourcePatch("x", bytes([number]) * size) for number, size in enumerate(sizes, 1)]
    chosen = large(patches)
    left = [patch for patch in patches if patch not in chosen]
    assert sum(map(encoded, left)) <= LARGE_BYTES
    if chosen:
        assert sum(map(encoded, left)) + encoded(chosen[-1]) > LARGE_BYTES
        assert min(map(encoded, chosen)) >= max(map(encoded, left), default=0)


class Server:
    """A server of the other end, as the client sees it."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[httpx2.Request] = []
        self.forgets = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        digest = request.url.path.rpartition("/")[2]
        if request.method == "HEAD":
            if digest not in self.blobs:
                return httpx2.Response(404, headers={"Content-Type": "application/problem+json"})
            return httpx2.Response(204, headers={"Upload-Complete": "?1", "Upload-Offset": "1"})
        if request.method == "PUT":
            self.blobs[digest] = request.content
            return httpx2.Response(201)
        if self.forgets:
            self.forgets -= 1
            self.blobs.clear()
            problem = {"code": "blob-unknown", "kind": "usage", "message": "No.", "advice": "Upload it."}
            return httpx2.Response(404, json=problem, headers={"Content-Type": "application/problem+json"})
        return httpx2.Response(202, json={"id": JOB})

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.asked]


def submit(handler: Callable[[httpx2.Request], httpx2.Response], *patches: SourcePatch) -> str:
    api = ServerClient(ClientSettings(token="elp_secret"), transport=httpx2.MockTransport(handler))
    return api.submit(BuildRequest(release="6.1.0", series=PatchSeries(patches)))


def test_a_small_request_is_one_request() -> None:
    server = Server()
    assert submit(server, SMALL, SMALL) == JOB
    assert server.methods == ["POST"]


def test_the_largest_patches_of_a_large_request_are_uploaded_and_named() -> None:
    server = Server()
    assert submit(server, SMALL, BIG, SMALL, BIG) == JOB
    assert server.methods == ["HEAD", "PUT", "POST"]
    assert server.blobs == {BIG.digest: BIG.content}
    assert server.asked[1].headers["upload-length"] == str(len(BIG.content))
    sent = json.loads(server.asked[-1].content)["patches"]
    assert [set(patch) for patch in sent] == [{"name", "content"}, {"name", "sha256"}] * 2
    assert [patch.get("sha256") for patch in sent] == [None, BIG.digest] * 2
    assert len(server.asked[-1].content) < LARGE_BYTES


def test_a_blob_that_went_in_between_is_uploaded_once_more() -> None:
    server = Server()
    server.forgets = 1
    assert submit(server, BIG) == JOB
    assert server.methods == ["HEAD", "PUT", "POST"] * 2
    server = Server()
    server.forgets = 2
    with pytest.raises(Refused):
        submit(server, BIG)
    assert server.methods.count("POST") == 2


@pytest.mark.parametrize("headers", [{}, {"Upload-Complete": "?0"}, {"Upload-Complete": "?0", "Upload-Offset": "x"}])
def test_an_answer_without_an_offset_is_not_believed(headers: dict[str, str]) -> None:
    with pytest.raises(EnvironmentFault) as refused:
        submit(lambda _: httpx2.Response(204, headers=headers), BIG)
    assert refused.value.problem.code == "server-answer"


@pytest.mark.parametrize("offset", ["-1", str(10**12)])
def test_an_offset_that_is_none_of_the_patch_begins_it_anew(offset: str) -> None:
    methods: list[str] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        methods.append(request.method)
        return httpx2.Response(200, json={"id": JOB}, headers={"Upload-Complete": "?0", "Upload-Offset": offset})

    assert submit(handler, BIG) == JOB
    assert methods == ["HEAD", "PUT", "POST"]
