# SPDX-License-Identifier: GPL-2.0-or-later
"""Content-addressed files: a blob is found by the SHA-256 of its bytes, and not served if its bytes differ."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from elivepatch.files.digest import sha256
from elivepatch.model.errors import EnvironmentFault, TrustError
from elivepatch.model.kernel import Digest

GRACE = timedelta(hours=24)
"""Time that a blob without a name in the database is kept: the row that names it may not be written yet."""

_PROBE = "probe"
# Each slow client holds two pieces in memory.
_PIECE_BYTES = 64 * 1024
_VERIFIED = 4096
_PATIENCE_S = 20
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Store:
    """Blobs under `PLACE/ab/abcd...`, in a directory or in any other object store that obstore knows.

    A blob is put in one step (a reader sees all of it or nothing), and putting it twice is the same as once. `put` and
    `get` hold a blob in memory: patches, modules and logs have some megabytes. `verify` and `chunks` read a blob
    piece by piece for clients, which may be many and slow.
    """

    def __init__(self, backend: ObjectStore, *, place: str = "sha256") -> None:
        self._backend = backend
        self._place = place
        self._verified = _Verified()
        self.on_loss: Callable[[Digest], None] = lambda _digest: None
        """Called with the digest of a blob that turned out to be missing or damaged."""

    @classmethod
    def in_directory(cls, directory: Path) -> Store:
        """Return the store in `directory`, which is made if it is missing."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(LocalStore(directory))

    @classmethod
    def at(cls, url: str) -> Store:
        """Return the store at `url`: `s3://BUCKET/PREFIX`, or `file:///DIRECTORY` on a shared file system.

        Endpoint, region and credentials come from the environment as obstore reads them (AWS_ENDPOINT_URL,
        AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION). Raises EnvironmentFault if the URL is malformed.
        """
        try:
            if url.startswith("file://"):
                return cls.in_directory(Path(url.removeprefix("file://")))
            # obstore waits three minutes for a store that does not answer; every request for a file would hold one of
            # the server's threads for that time.
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
                "The store's URL is malformed.",
                advice="Write s3://BUCKET/PREFIX, or leave it out for a directory in the state directory.",
            ) from error

    def put(self, data: bytes, digest: Digest | None = None) -> Digest:
        """Keep `data` and return its digest, which a caller that knows it passes. A damaged blob is replaced."""
        digest = digest or sha256(data)
        # Not a conditional put, which some object stores lack: another writer of this name writes the same bytes. A
        # blob that is about to be collected is written again, which makes it young.
        if self._is_old_or_missing(digest) or not self._is_whole(digest):
            written = obstore.put(self._backend, self._key(digest), data)
            self._verified.note(digest, written["e_tag"])
        return digest

    def get(self, digest: Digest) -> bytes:
        """Return the blob's bytes after comparing them with the digest.

        Raises EnvironmentFault if there is no such blob, TrustError if its bytes have changed.
        """
        data = b"".join(self._pieces(digest))
        if sha256(data) != digest:
            raise self._damaged(digest)
        return data

    def verify(self, digest: Digest) -> int:
        """Compare the blob's bytes with the digest and return their number; raises as `get` does.

        The bytes are read only if they may have changed since they were last compared: the entity tag, in a directory
        made of inode, size and modification time, is another one then.
        """
        found = self._found(digest)
        size = int(found["size"])
        if self._verified.holds(digest, found["e_tag"]):
            return size
        seen = hashlib.sha256()
        for piece in self._pieces(digest):
            seen.update(piece)
        if seen.hexdigest() != digest:
            raise self._damaged(digest)
        self._verified.note(digest, found["e_tag"])
        return size

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
        """Write, read and remove a small file; raises the backend's exception if that fails."""
        obstore.put(self._backend, _PROBE, b"probe")
        obstore.get(self._backend, _PROBE).bytes()
        obstore.delete(self._backend, _PROBE)

    def _pieces(self, digest: Digest) -> Iterator[bytes]:
        try:
            yield from obstore.get(self._backend, self._key(digest)).stream(min_chunk_size=_PIECE_BYTES)
        except FileNotFoundError as error:
            raise self._missing(digest) from error

    def _found(self, digest: Digest) -> Any:
        """Return size, entity tag and modification time of a blob."""
        try:
            return obstore.head(self._backend, self._key(digest))
        except FileNotFoundError as error:
            raise self._missing(digest) from error

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
            self.verify(digest)
        except (EnvironmentFault, TrustError, BaseError):
            return False
        return True

    def _key(self, digest: Digest) -> str:
        """Return the path of a blob; raises TrustError if `digest` is not a digest."""
        if not _DIGEST.fullmatch(digest):
            raise TrustError(
                "digest-malformed",
                "The name of the file is not a SHA-256.",
                advice="Give 64 lower-case hexadecimal digits.",
            )
        return f"{self._place}/{digest[:2]}/{digest}"

    def _missing(self, digest: Digest) -> EnvironmentFault:
        self.on_loss(digest)
        return EnvironmentFault(
            "blob-missing",
            "A file of this job is no longer in the server's store.",
            advice="Submit the job again; the server's operator may restore the store from its backup.",
        )

    def _damaged(self, digest: Digest) -> TrustError:
        self.on_loss(digest)
        return TrustError(
            "blob-damaged",
            "A file of this job was changed in the server's store and is not served.",
            advice="Submit the job again, and check the server's disk and its users.",
        )


class _Verified:
    """Entity tags of the blobs whose bytes were compared with their digest last, a few thousand of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tags: OrderedDict[Digest, str] = OrderedDict()

    def holds(self, digest: Digest, tag: str | None) -> bool:
        """Return whether the blob was compared while it had this tag; a store without tags never holds one."""
        with self._lock:
            return tag is not None and self._tags.get(digest) == tag

    def note(self, digest: Digest, tag: str | None) -> None:
        """Note that the blob with this tag has the bytes of its digest."""
        if tag is None:
            return
        with self._lock:
            self._tags[digest] = tag
            self._tags.move_to_end(digest)
            if len(self._tags) > _VERIFIED:
                self._tags.popitem(last=False)
