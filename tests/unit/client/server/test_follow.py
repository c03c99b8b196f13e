# SPDX-License-Identifier: GPL-2.0-or-later
"""Following a job over lost connections: every event once, and not for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.errors import Refused, Unreachable
from elivepatch.client.server.follow import PATIENCE_S, JobFollower
from elivepatch.model.build import Result
from elivepatch.model.progress import Event
from elivepatch.settings import ClientSettings

JOB = "0123456789abcdef"
REPORT: dict[str, Any] = {
    "id": JOB, "status": "done", "result": "success", "kernel": "6.1.0", "build_id": "", "functions": [],
    "problem": None, "notes": [], "livepatch": None, "module_sha256": None, "seconds": {}, "trial": None,
}  # fmt: skip


@dataclass
class Clock:
    """Time that passes by sleeping."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Server:
    """A server of one job with events 1 to `events`, that cuts connections as `cuts` says.

    A cut is how many events a connection delivers before it breaks (`None`: the server cannot be reached at all,
    `-1`: it ends the stream in good order though the job is not done).
    """

    def __init__(self, events: int, cuts: list[int | None]) -> None:
        self.events = events
        self.cuts = cuts
        self.told_after: list[int] = []
        self.done = False

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/events"):
            return self._events(int(request.headers["last-event-id"]))
        if request.url.path.endswith("/report"):
            return httpx2.Response(200, json=REPORT)
        return httpx2.Response(200, json={"status": "done" if self.done else "running"})

    def _events(self, after: int) -> httpx2.Response:
        cut = self.cuts.pop(0) if self.cuts else self.events
        if cut is None:
            raise httpx2.ConnectError("refused")
        self.told_after.append(after)
        content = httpx2.Response(200).stream if cut == 0 else self._stream(after, cut)
        return httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, content=content)

    def _stream(self, after: int, cut: int) -> Iterator[bytes]:
        last = self.events if cut < 0 else min(self.events, after + cut)
        for number in range(after + 1, last + 1):
            data = json.dumps({"stage": "compile", "message": f"step {number}", "fraction": None})
            yield f"id: {number}\nevent: progress\ndata: {data}\n\n".encode()
        if last < self.events:
            raise httpx2.ReadError("connection reset")
        self.done = cut >= 0


def follow(server: Server, clock: Clock) -> tuple[Result, list[Event]]:
    told: list[Event] = []
    api = ServerClient(ClientSettings(), transport=httpx2.MockTransport(server))
    report = JobFollower(told.append, clock=lambda: clock.now, sleep=clock.sleep).follow(api, JOB)
    return report.result, told


def steps(told: list[Event]) -> list[str]:
    return [event.message for event in told if event.stage == "compile"]


def test_a_job_is_followed_to_its_end() -> None:
    result, told = follow(Server(4, []), Clock())
    assert (result, steps(told)) == (Result.SUCCESS, [f"step {number}" for number in range(1, 5)])


def test_a_job_that_is_done_is_not_told_again() -> None:
    server = Server(4, [])
    server.done = True
    assert follow(server, Clock()) == (Result.SUCCESS, [])


@pytest.mark.parametrize("cuts", [[2], [1, 1, 1], [None, 2, None, None, 1], [3, None]])
def test_a_lost_connection_is_taken_up_where_it_broke(cuts: list[int | None]) -> None:
    server = Server(9, list(cuts))
    result, told = follow(server, Clock())
    assert (result, steps(told)) == (Result.SUCCESS, [f"step {number}" for number in range(1, 10)])
    assert server.told_after == sorted(server.told_after)


def test_the_user_is_told_once_that_the_server_is_away() -> None:
    _, told = follow(Server(2, [1, None, None]), Clock())
    assert [event.stage for event in told].count("wait") == 1


def test_a_server_that_stays_away_is_given_up_in_the_end() -> None:
    clock = Clock()
    with pytest.raises(Unreachable):
        follow(Server(5, [2, *[None] * 1000]), clock)
    assert PATIENCE_S <= clock.now < PATIENCE_S + 10
    assert max(clock.pauses) <= 3.0


def test_patience_starts_anew_when_the_server_was_back() -> None:
    clock = Clock()
    cuts: list[int | None] = [1, *[None] * 15, 1, *[None] * 15, 1, *[None] * 15]
    result, _ = follow(Server(6, cuts), clock)
    assert result is Result.SUCCESS
    assert clock.now > PATIENCE_S


def test_a_stream_that_ends_early_in_good_order_is_asked_for_again_but_not_in_a_hurry() -> None:
    clock = Clock()
    result, told = follow(Server(3, [-1, -1, -1, -1, -1, -1]), clock)
    assert (result, len(steps(told))) == (Result.SUCCESS, 3)
    assert clock.pauses[-1] > clock.pauses[0]


def test_a_job_that_the_server_does_not_know_ends_the_wait_at_once() -> None:
    problem = {"code": "build-unknown", "kind": "usage", "message": "None.", "advice": "List them."}
    content_type = {"Content-Type": "application/problem+json"}
    clock = Clock()
    api = ServerClient(
        ClientSettings(),
        transport=httpx2.MockTransport(lambda _: httpx2.Response(404, json=problem, headers=content_type)),
    )
    with pytest.raises(Refused):
        JobFollower(lambda _: None, clock=lambda: clock.now, sleep=clock.sleep).follow(api, JOB)
    assert clock.pauses == []
