# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's monitor is read with limits: QEMU runs a hostile guest, and may have become hostile itself."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.trial.outside.errors import NotSeen
from elivepatch.trial.outside.qmp import MESSAGE_LIMIT_BYTES, Messages, Qmp

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}\r\n'
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=8)
MESSAGES = st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=8)


@contextmanager
def monitor(speak: Callable[[socket.socket], None], answer_s: float = 5.0) -> Iterator[Qmp]:
    """Connect a client with `speak`, which runs in QEMU's place."""
    ours, theirs = socket.socketpair()
    speaker = threading.Thread(target=speak, args=(theirs,))
    speaker.start()
    yield Qmp(ours, answer_s)
    ours.close()
    speaker.join(10)
    theirs.close()


def answering(*answers: bytes, greeting: bytes = GREETING) -> Callable[[socket.socket], None]:
    """Return a monitor that answers each command with the next of `answers`; %d is the command's number."""

    def speak(connection: socket.socket) -> None:
        connection.sendall(greeting)
        for answer in (b'{"return": {}, "id": %d}\r\n', *answers):
            request = connection.recv(65536)
            if not request:
                return
            connection.sendall(answer.replace(b"%d", str(json.loads(request)["id"]).encode()))

    return speak


@given(MESSAGES, st.lists(st.integers(0, 200), max_size=8))
def test_messages_are_the_same_however_the_stream_is_cut(messages: list[dict[str, object]], cuts: list[int]) -> None:
    stream = b"".join(json.dumps(one).encode() + b"\r\n" for one in messages)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    parser, seen = Messages(), list[object]()
    for start, end in pairwise(places):
        seen += parser.feed(stream[start:end])
    assert seen == messages


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_are_refused(stream: bytes) -> None:
    try:
        seen = list(Messages().feed(stream))
    except NotSeen:
        return
    assert all(isinstance(one, dict) for one in seen)


@pytest.mark.parametrize(
    "line",
    [b"x" * (MESSAGE_LIMIT_BYTES + 1), b"[" * 100_000 + b"\n", b"{" + b" " * MESSAGE_LIMIT_BYTES + b"}\n", b"7\n"],
)
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(NotSeen):
        list(Messages().feed(line))


def test_a_command_returns_what_the_monitor_answers_and_events_are_passed_over() -> None:
    event = b'{"event": "STOP", "timestamp": {}}\r\n'
    with monitor(answering(event + b'{"return": "CR3=1", "id": %d}\r\n' + event)) as qmp:
        assert qmp.execute("human-monitor-command", **{"command-line": "info registers -a"}) == "CR3=1"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"error": {"class": "CommandNotFound", "desc": "no such command"}, "id": %d}\r\n', "no such command"),
        (b'{"error": 7, "id": %d}\r\n', "refuses stop"),
        (b"not json\r\n", "no JSON"),
        (b'{"event": "STOP"}\r\n' * 1100, "events without end"),
    ],
)
def test_an_answer_that_is_none_is_told(answer: bytes, reason: str) -> None:
    with monitor(answering(answer)) as qmp, pytest.raises(NotSeen, match=reason):
        qmp.execute("stop")


def test_a_monitor_that_does_not_answer_is_waited_for_no_longer_than_its_limit() -> None:
    released = threading.Event()

    def silent(_connection: socket.socket) -> None:
        released.wait(10)

    started = time.monotonic()
    with monitor(silent, answer_s=0.2) as qmp:
        with pytest.raises(NotSeen, match="does not answer"):
            qmp.execute("stop")
        released.set()
    assert time.monotonic() - started < 5


def test_a_monitor_that_is_closed_is_told() -> None:
    with (
        monitor(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as qmp,
        pytest.raises(NotSeen, match="closed"),
    ):
        qmp.execute("stop")
