# SPDX-License-Identifier: GPL-2.0-or-later
"""Content-addressed files: a blob is found by the SHA-256 of its bytes and is never served where they differ."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from elivepatch.model.errors import EnvironmentFault, TrustError
from elivepatch.model.kernel import Digest

GRACE = timedelta(hours=24)
"""A blob that nothing names is left alone for so long: what names it may just be on its way."""

_PROBE = "probe"
_PIECE_BYTES = 256 * 1024
_PATIENCE_S = 20
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def digest_of(data: bytes) -> Digest:
    """Return the SHA-256 of `data`."""
    return Digest(hashlib.sha256(data).hexdigest())


class Store:
    """Blobs under `PLACE/ab/abcd...`, in a directory or in any other object store that obstore knows.

    A blob is put in one step (a reader sees all of it or nothing), and putting it twice is the same as once. What is
    put or got is held in memory whole: patches, modules and logs are some megabytes. What is handed to clients, of whom
    there may be many and slow ones, is read by `chunks` after `verify`; what they upload goes in by `put_file`.
    """

    def __init__(self, backend: ObjectStore, *, place: str = "sha256") -> None:
        self._backend = backend
        self._place = place

    @classmethod
    def in_directory(cls, directory: Path) -> Store:
        """Return the store that keeps its blobs in `directory`, which is made where it is missing."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(LocalStore(directory))

    @classmethod
    def at(cls, url: str) -> Store:
        """Return the store at `url`: `s3://BUCKET/PREFIX`, or `file:///DIRECTORY` on a shared file system.

        Endpoint, region and credentials come from the environment as obstore reads them (AWS_ENDPOINT_URL,
        AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION). Raises EnvironmentFault where the URL is not understood.
        """
        try:
            if url.startswith("file://"):
                return cls.in_directory(Path(url.removeprefix("file://")))
            # obstore's own patience with a store that says nothing is three minutes, for which every request that wants
            # a file would hold one of the server's threads.
            options: Any = {
                "client_options": {
                    "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
                    "timeout": f"{_PATIENCE_S}s",
                    "connect_timeout": "3s",
                },
                "retry_config": {"max_retries": 10, "retry_timeout": timedelta(seconds=_PATIENCE_S)},
            }
            return cls(from_url(url, **options))
        except (BaseError, ValueError) as error:
            raise EnvironmentFault(
                "store-url",
                "The store's URL cannot be understood.",
                advice="Write s3://BUCKET/PREFIX, or leave it out for a directory in the state directory.",
            ) from error

    def at_place(self, place: str) -> Store:
        """Return the store of other blobs in the same backend: one knows nothing of what the other has."""
        return Store(self._backend, place=place)

    def put(self, data: bytes) -> Digest:
        """Keep `data` and return its digest. A damaged blob of that name is replaced."""
        digest = digest_of(data)
        # Not a conditional put, which not every object store knows: whoever else puts it at the same moment puts the
        # same bytes. One that is about to be collected is written again, which makes it young.
        if self._is_old_or_missing(digest) or not self._is_whole(digest):
            obstore.put(self._backend, self._key(digest), data)
        return digest

    def put_file(self, file: Path, digest: Digest) -> None:
        """Keep a file's bytes, whose digest the caller has made sure of; they are not held in memory whole."""
        obstore.put(self._backend, self._key(digest), file, max_concurrency=1)

    def get(self, digest: Digest) -> bytes:
        """Return the blob's bytes; they have been compared with the digest.

        Raises EnvironmentFault where there is no such blob, TrustError where its bytes have changed.
        """
        data = b"".join(self._pieces(digest))
        if digest_of(data) != digest:
            raise _damaged()
        return data

    def verify(self, digest: Digest) -> int:
        """Compare the blob's bytes with the digest and return how many they are; raises as `get` does."""
        seen, size = hashlib.sha256(), 0
        for piece in self._pieces(digest):
            seen.update(piece)
            size += len(piece)
        if seen.hexdigest() != digest:
            raise _damaged()
        return size

    def size(self, digest: Digest) -> int | None:
        """Return how many bytes the blob has, None where there is no such blob."""
        try:
            return int(obstore.head(self._backend, self._key(digest))["size"])
        except FileNotFoundError:
            return None

    def sizes(self) -> list[int]:
        """Return how many bytes each blob has."""
        return [int(blob["size"]) for blob in self._all()]

    def remove(self, digest: Digest) -> None:
        """Remove a blob; doing it twice is the same as once."""
        try:
            obstore.delete(self._backend, self._key(digest))
        except FileNotFoundError:
            return

    def chunks(self, digest: Digest, first: int, last: int) -> Iterator[bytes]:
        """Yield the blob's bytes from `first` to `last`, both counted from 0 and included, piece by piece."""
        if first <= last:
            found = obstore.get(self._backend, self._key(digest), options={"range": (first, last + 1)})
            yield from found.stream(min_chunk_size=_PIECE_BYTES)

    def collect(self, named: set[str], *, grace: timedelta = GRACE) -> int:
        """Remove the blobs that `named` does not have and that are older than `grace`; return how many they were."""
        until = datetime.now(UTC) - grace
        removed = 0
        for blob in self._all():
            path = str(blob["path"])
            if path.rpartition("/")[2] not in named and blob["last_modified"] < until:
                obstore.delete(self._backend, path)
                removed += 1
        return removed

    def check(self) -> None:
        """Write, read and remove a small file; raises what the backend raises where that does not work."""
        obstore.put(self._backend, _PROBE, b"probe")
        obstore.get(self._backend, _PROBE).bytes()
        obstore.delete(self._backend, _PROBE)

    def _pieces(self, digest: Digest) -> Iterator[bytes]:
        try:
            yield from obstore.get(self._backend, self._key(digest)).stream(min_chunk_size=_PIECE_BYTES)
        except FileNotFoundError as error:
            raise EnvironmentFault(
                "blob-missing",
                "A file of this job is no longer in the server's store.",
                advice="Submit the job again; the server's operator may restore the store from its backup.",
            ) from error

    def _all(self) -> Iterator[Any]:
        for chunk in obstore.list(self._backend, self._place):
            found: Sequence[Any] = chunk
            yield from found

    def _is_old_or_missing(self, digest: Digest) -> bool:
        try:
            modified = obstore.head(self._backend, self._key(digest))["last_modified"]
        except FileNotFoundError:
            return True
        return modified < datetime.now(UTC) - GRACE / 2

    def _is_whole(self, digest: Digest) -> bool:
        try:
            self.get(digest)
        except (EnvironmentFault, TrustError, BaseError):
            return False
        return True

    def _key(self, digest: Digest) -> str:
        """Return where a blob is kept; raises TrustError for anything that is not a digest."""
        if not _DIGEST.fullmatch(digest):
            raise TrustError(
                "digest-malformed",
                "A file was asked for by something that is not a SHA-256.",
                advice="Give 64 lower-case hexadecimal digits.",
            )
        return f"{self._place}/{digest[:2]}/{digest}"


def _damaged() -> TrustError:
    return TrustError(
        "blob-damaged",
        "A file of this job was changed in the server's store and is not handed out.",
        advice="Submit the job again, and have the server's disk and its users looked at.",
    )
