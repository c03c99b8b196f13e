# SPDX-License-Identifier: GPL-2.0-or-later
"""Content-addressed files: a blob is found by the SHA-256 of its bytes and is never served where they differ."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore

from elivepatch.model.errors import EnvironmentFault, TrustError
from elivepatch.model.kernel import Digest

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def digest_of(data: bytes) -> Digest:
    """Return the SHA-256 of `data`."""
    return Digest(hashlib.sha256(data).hexdigest())


class Store:
    """Blobs under `sha256/ab/abcd...`, in a directory or in any other object store that obstore knows.

    Whole blobs are held in memory: modules and logs are some megabytes. A blob is put in one step (a reader sees all
    of it or nothing), and putting it twice is the same as once.
    """

    def __init__(self, backend: ObjectStore) -> None:
        self._backend = backend

    @classmethod
    def in_directory(cls, directory: Path) -> Store:
        """Return the store that keeps its blobs in `directory`, which is made where it is missing."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(LocalStore(directory))

    def put(self, data: bytes) -> Digest:
        """Keep `data` and return its digest. A damaged blob of that name is replaced."""
        digest = digest_of(data)
        try:
            obstore.put(self._backend, _key(digest), data, mode="create")
        except AlreadyExistsError:
            if not self._is_whole(digest):
                obstore.put(self._backend, _key(digest), data, mode="overwrite")
        return digest

    def get(self, digest: Digest) -> bytes:
        """Return the blob's bytes; they have been compared with the digest.

        Raises EnvironmentFault where there is no such blob, TrustError where its bytes have changed.
        """
        try:
            data = bytes(obstore.get(self._backend, _key(digest)).bytes())
        except FileNotFoundError as error:
            raise EnvironmentFault(
                "blob-missing",
                "A file of this job is no longer in the server's store.",
                advice="Submit the job again; the server's operator may restore the store from its backup.",
            ) from error
        if digest_of(data) != digest:
            raise TrustError(
                "blob-damaged",
                "A file of this job was changed in the server's store and is not handed out.",
                advice="Submit the job again, and have the server's disk and its users looked at.",
            )
        return data

    def _is_whole(self, digest: Digest) -> bool:
        try:
            self.get(digest)
        except (EnvironmentFault, TrustError, BaseError):
            return False
        return True


def _key(digest: Digest) -> str:
    """Return where a blob is kept; raises TrustError for anything that is not a digest."""
    if not _DIGEST.fullmatch(digest):
        raise TrustError(
            "digest-malformed",
            "A file was asked for by something that is not a SHA-256.",
            advice="Give 64 lower-case hexadecimal digits.",
        )
    return f"sha256/{digest[:2]}/{digest}"
