# SPDX-License-Identifier: GPL-2.0-or-later
"""The content-addressed store: what goes in comes out, or nothing does."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import BaseError
from obstore.store import MemoryStore

from elivepatch.files.digest import sha256
from elivepatch.model.errors import EnvironmentFault, TrustError
from elivepatch.model.kernel import Digest
from elivepatch.service.db.causes import problem_of
from elivepatch.service.store import Store


def file_of(directory: Path, digest: Digest) -> Path:
    return directory / "sha256" / digest[:2] / digest


@given(st.binary(max_size=4096))
def test_what_is_put_is_got_by_its_digest(data: bytes) -> None:
    store = Store(MemoryStore())
    assert store.get(store.put(data)) == data


def test_putting_a_blob_twice_is_the_same_as_once(tmp_path: Path) -> None:
    store = Store.in_directory(tmp_path)
    digest = store.put(b"module")
    before = file_of(tmp_path, digest).stat()
    assert store.put(b"module") == digest
    assert file_of(tmp_path, digest).stat().st_ino == before.st_ino
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file_of(tmp_path, digest)]


def test_a_blob_is_hashed_when_it_is_put_and_again_only_if_it_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.in_directory(tmp_path)
    reads: list[str] = []
    get = obstore.get

    def counted(backend: Any, path: str, **options: Any) -> Any:
        reads.append(path)
        return get(backend, path, **options)

    monkeypatch.setattr(obstore, "get", counted)
    digest = store.put(b"module")
    assert [store.verify(digest) for _ in range(10)] == [6] * 10
    assert reads == []
    file_of(tmp_path, digest).write_bytes(b"modulE")
    for _ in range(2):
        with pytest.raises(TrustError):
            store.verify(digest)
    # Another process has hashed nothing yet.
    file_of(tmp_path, digest).write_bytes(b"module")
    reads.clear()
    other = Store.in_directory(tmp_path)
    assert [other.verify(digest) for _ in range(3)] == [6] * 3
    assert len(reads) == 1


def test_a_lost_blob_is_reported_to_those_who_count_on_it(tmp_path: Path) -> None:
    store = Store.in_directory(tmp_path)
    lost: list[Digest] = []
    store.on_loss = lost.append
    digest = store.put(b"module")
    file_of(tmp_path, digest).write_bytes(b"torn")
    with pytest.raises(TrustError):
        store.get(digest)
    file_of(tmp_path, digest).unlink()
    with pytest.raises(EnvironmentFault):
        store.get(digest)
    assert lost == [digest, digest]


@pytest.mark.parametrize("damaged", [b"", b"modulE", b"module and more"])
def test_a_blob_that_was_changed_is_not_handed_out(tmp_path: Path, damaged: bytes) -> None:
    store = Store.in_directory(tmp_path)
    digest = store.put(b"module")
    file_of(tmp_path, digest).write_bytes(damaged)
    with pytest.raises(TrustError) as refused:
        store.get(digest)
    assert refused.value.problem.code == "blob-damaged"


def test_putting_a_damaged_blob_again_mends_it(tmp_path: Path) -> None:
    store = Store.in_directory(tmp_path)
    digest = store.put(b"module")
    file_of(tmp_path, digest).write_bytes(b"torn")
    store.put(b"module")
    assert store.get(digest) == b"module"


def test_a_blob_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as refused:
        Store.in_directory(tmp_path).get(sha256(b"never put"))
    assert refused.value.problem.code == "blob-missing"


@given(st.one_of(st.text(), st.sampled_from(["../../etc/passwd", "/etc/passwd", "A" * 64, "a" * 63 + "/", "٣" * 64])))
def test_nothing_but_a_digest_is_a_key(key: str) -> None:
    with pytest.raises(TrustError) as refused:
        Store(MemoryStore()).get(Digest(key))
    assert refused.value.problem.code == "digest-malformed"


def test_many_threads_may_put_the_same_blob_at_once(tmp_path: Path) -> None:
    store = Store.in_directory(tmp_path)
    data = b"m" * 1_000_000
    failures: list[BaseException] = []

    def put() -> None:
        try:
            assert store.get(store.put(data)) == data
        except (AssertionError, TrustError, EnvironmentFault) as error:
            failures.append(error)

    threads = [threading.Thread(target=put) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert failures == []


@given(st.binary(max_size=600_000), st.integers(0, 700_000), st.integers(0, 700_000))
def test_a_part_of_a_blob_is_that_part(data: bytes, first: int, last: int) -> None:
    store = Store(MemoryStore())
    digest = store.put(data)
    assert store.verify(digest) == len(data)
    last = min(last, len(data) - 1)
    assert b"".join(store.chunks(digest, first, last)) == data[first : last + 1]


def test_a_store_that_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("elivepatch.service.store._PATIENCE_S", 1)
        store = Store.at("s3://bucket/prefix")
        started = time.monotonic()
        with pytest.raises(BaseError) as refused:
            store.get(sha256(b"x"))
        assert time.monotonic() - started < 5
    assert problem_of(refused.value).code == "store-away"
