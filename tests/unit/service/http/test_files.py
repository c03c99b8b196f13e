# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of jobs: whole or in ranges, compared with their digest without reading them for each request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import obstore
import pytest
from assembled import Assembled, assembled


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    with assembled(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the ranges in which blobs are read from now on, None for the whole of one."""
    seen: list[Any] = []
    get = obstore.get

    def counted(store: Any, path: str, **options: Any) -> Any:
        seen.append(options.get("options", {}).get("range"))
        return get(store, path, **options)

    monkeypatch.setattr(obstore, "get", counted)
    return seen


def test_a_range_reads_its_bytes_only(server: Assembled, reads: list[Any]) -> None:
    report = server.done("sleep 0\nranges")
    path = f"/v1/builds/{report['id']}/module"
    whole = server.http.get(path).content
    reads.clear()
    parts = [server.http.get(path, headers={"Range": f"bytes={n * 100}-{n * 100 + 99}"}) for n in range(10)]
    assert [part.status_code for part in parts] == [206] * 10
    assert b"".join(part.content for part in parts) == whole[:1000]
    assert reads == [(n * 100, n * 100 + 100) for n in range(10)]


def test_a_file_that_the_client_has_is_not_read(server: Assembled, reads: list[Any]) -> None:
    report = server.done("sleep 0\nknown")
    path = f"/v1/builds/{report['id']}/module"
    reads.clear()
    again = server.http.get(path, headers={"If-None-Match": f'"{report["module_sha256"]}"'})
    assert (again.status_code, reads) == (304, [])


def test_a_file_that_was_changed_after_it_was_served_is_not_served_again(server: Assembled) -> None:
    report = server.done("sleep 0\nchanged")
    path, digest = f"/v1/builds/{report['id']}/module", report["module_sha256"]
    assert server.http.get(path).status_code == 200
    blob = server.state / "store" / "sha256" / digest[:2] / digest
    blob.write_bytes(b"\0" * blob.stat().st_size)
    refused = server.http.get(path)
    assert (refused.status_code, refused.json()["code"]) == (500, "blob-damaged")
