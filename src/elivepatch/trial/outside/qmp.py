# SPDX-License-Identifier: GPL-2.0-or-later
"""Client of QEMU's monitor protocol (QMP): one JSON object a line, over a socket that QEMU inherits.

QEMU runs a hostile guest, so its answers are read with limits on size, number and time. Format: QEMU's
docs/interop/qmp-spec.rst.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from elivepatch.trial.outside.errors import NotSeen

MESSAGE_LIMIT_BYTES = 256 << 10
"""The longest answer that is read; the registers of two processors take 6 KiB."""

ANSWER_S = 5.0
"""Seconds that QEMU has for one answer."""

_EVENTS_LIMIT = 1000
_CHUNK_BYTES = 64 << 10

Message = dict[str, Any]


@dataclass(slots=True)
class Messages:
    """Parser of a stream of messages."""

    _rest: bytes = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes. Raises NotSeen for a line that is no message, or is too long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield _message(line)
        if len(self._rest) > MESSAGE_LIMIT_BYTES:
            raise NotSeen("QEMU's monitor sent a line without an end")


def _message(line: bytes) -> Message:
    if len(line) > MESSAGE_LIMIT_BYTES:
        raise NotSeen("QEMU's monitor sent a line that is too long")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotSeen("QEMU's monitor sent a line that is no JSON") from error
    if not isinstance(found, dict):
        raise NotSeen("QEMU's monitor sent JSON that is no message")
    return found


@dataclass(slots=True)
class Qmp:
    """Connection to one QEMU. Every method raises NotSeen if QEMU does not answer in time, or answers otherwise."""

    connection: socket.socket
    answer_s: float = ANSWER_S
    _messages: Messages = field(default_factory=Messages)
    _waiting: list[Message] = field(default_factory=list)
    _number: int = 0
    _negotiated: bool = False

    def execute(self, command: str, **arguments: object) -> object:
        """Run one command and return what it returns; the first one negotiates capabilities before."""
        deadline = time.monotonic() + self.answer_s
        if not self._negotiated:
            while "QMP" not in self._next(deadline):
                pass
            self._run("qmp_capabilities", {}, deadline)
            self._negotiated = True
        return self._run(command, arguments, deadline)

    def _run(self, command: str, arguments: dict[str, object], deadline: float) -> object:
        self._number += 1
        request = {"execute": command, "arguments": arguments, "id": self._number}
        self._send(json.dumps(request).encode() + b"\n", deadline)
        for _ in range(_EVENTS_LIMIT):
            answer = self._next(deadline)
            if answer.get("id") == self._number:  # anything else is an event
                if "return" not in answer:
                    raise NotSeen(f"QEMU refuses {command}{_words(answer)}")
                return answer["return"]
        raise NotSeen(f"QEMU does not answer {command}, but sends events without end")

    def _send(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(select.POLLOUT, deadline)
            try:
                left = left[self.connection.send(left, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
            except OSError as error:
                raise NotSeen(f"QEMU's monitor is closed ({error.strerror})") from error

    def _next(self, deadline: float) -> Message:
        while not self._waiting:
            self._wait(select.POLLIN, deadline)
            try:
                data = self.connection.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
            except OSError as error:
                raise NotSeen(f"QEMU's monitor is closed ({error.strerror})") from error
            if not data:
                raise NotSeen("QEMU has closed its monitor")
            self._waiting += self._messages.feed(data)
        return self._waiting.pop(0)

    def _wait(self, events: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(self.connection, events)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise NotSeen(f"QEMU's monitor does not answer within {self.answer_s:.0f} s")


def _words(answer: Message) -> str:
    error = answer.get("error")
    words = error.get("desc") if isinstance(error, dict) else None
    return f" ({words[:200]})" if isinstance(words, str) else ""
