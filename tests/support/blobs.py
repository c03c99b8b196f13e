# SPDX-License-Identifier: GPL-2.0-or-later
"""Uploading to a server without its process, and what its answers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
from assembled import Assembled
from fake_backend import KERNEL

from elivepatch.service.store import digest_of


def path_of(content: bytes) -> str:
    return f"/v1/blobs/{digest_of(content)}"


def begin(server: Assembled, content: bytes, sent: bytes, **headers: str) -> httpx2.Response:
    """Send the first bytes of an upload and say that more will come."""
    more = {"Upload-Complete": "?0"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http.put(path_of(content), content=sent, headers=more)


def resume(
    server: Assembled, content: bytes, sent: bytes, *, offset: int, complete: bool = True, **headers: str
) -> httpx2.Response:
    """Go on with an upload."""
    more = {
        "Upload-Offset": str(offset),
        "Upload-Complete": "?1" if complete else "?0",
        "Content-Type": "application/partial-upload",
    }
    more |= {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http.patch(path_of(content), content=sent, headers=more)


def stands(answer: httpx2.Response) -> tuple[int, int, str]:
    """The status, how much is there, whether that is all."""
    return answer.status_code, int(answer.headers["upload-offset"]), answer.headers["upload-complete"]


def refused(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["code"] == code
    assert document["advice"]
    return document


def ask(server: Assembled, *contents: bytes, headers: dict[str, str] | None = None) -> httpx2.Response:
    """Ask for a build of patches that were uploaded."""
    patches = [{"name": "fix.patch", "sha256": digest_of(content)} for content in contents]
    return server.http.post("/v1/builds", json={"kernel": KERNEL.release, "patches": patches}, headers=headers)


def left_on_disk(server: Assembled, name: str = "*") -> list[Path]:
    return [file for file in (server.state / "uploads").rglob(name) if file.is_file()]
