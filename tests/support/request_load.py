# SPDX-License-Identifier: GPL-2.0-or-later
"""Many concurrent clients, each with its own connection and a minimal HTTP client."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path

from fake_backend import KERNEL
from running_server import RunningServer


def memory_mib(server: RunningServer) -> float:
    """Peak resident memory of the server in MiB (proc(5): VmHWM)."""
    text = Path(f"/proc/{server.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def ask_at_once(server: RunningServer, patch: bytes, count: int) -> list[tuple[int, str]]:
    """Submit the same build on `count` connections; return the HTTP status and the job id of each."""
    content = base64.b64encode(patch).decode()
    body = json.dumps({"kernel": KERNEL.release, "patches": [{"name": "x", "content": content}]}).encode()
    request = _request(server, "POST /v1/builds", f"Content-Length: {len(body)}") + body
    answers = asyncio.run(_all(server.port, request, count))
    return [(int(answer.split()[1]), json.loads(answer.partition(b"\r\n\r\n")[2])["id"]) for answer in answers]


def follow_at_once(server: RunningServer, job: str, count: int) -> list[bytes]:
    """Follow a job on `count` connections to its end and return each event stream."""
    return asyncio.run(_all(server.port, _request(server, f"GET /v1/builds/{job}/events"), count))


def poll(server: RunningServer, job: str, *, polls: int, per_s: int) -> list[float]:
    """Request the state of a job `per_s` times a second and return the response times in seconds, sorted.

    A response time counts from the moment a request was due, so that a server that falls behind cannot hide it.
    """
    request = _request(server, f"GET /v1/builds/{job}", closing=False)
    took: list[float] = []

    async def connection(queue: asyncio.Queue[float | None]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        while (due := await queue.get()) is not None:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            took.append(time.monotonic() - due)
        writer.close()

    async def crowd() -> None:
        queue: asyncio.Queue[float | None] = asyncio.Queue()
        lines = [asyncio.create_task(connection(queue)) for _ in range(16)]
        started = time.monotonic()
        for number in range(polls):
            due = started + number / per_s
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            queue.put_nowait(due)
        for _ in lines:
            queue.put_nowait(None)
        await asyncio.gather(*lines)

    asyncio.run(crowd())
    return sorted(took)


def _request(server: RunningServer, line: str, *more: str, closing: bool = True) -> bytes:
    token = server.token_file.read_text().strip()
    lines = [f"{line} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", *more]
    return "\r\n".join([*lines, *(["Connection: close"] if closing else []), "", ""]).encode()


async def _all(port: int, request: bytes, count: int) -> list[bytes]:
    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read(-1)
        writer.close()
        return answer

    return await asyncio.gather(*(one() for _ in range(count)))
