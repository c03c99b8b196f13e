# SPDX-License-Identifier: GPL-2.0-or-later
"""A large file that the server signs: hashed and signed once for each version of it, not for each request."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from elivepatch.advisory.exposure.sources import etag
from elivepatch.trust.document import sign_document
from elivepatch.trust.keys import ServerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """Entity tag and signature of a version of a file."""

    tag: str
    signature: str


class SignedFile:
    """The file at `path`, which other processes replace atomically; `kind` is the type that its signature covers."""

    def __init__(self, path: Path, kind: str, key: ServerKey) -> None:
        self._path = path
        self._kind = kind
        self._key = key
        self._lock = threading.Lock()
        self._signed: tuple[tuple[int, int, int], Signed] | None = None

    def read(self, known_tags: str) -> tuple[Signed, bytes | None]:
        """Return tag and signature of the file, and its content unless `known_tags` (If-None-Match) has the tag.

        Raises FileNotFoundError if there is no file.
        """
        with self._path.open("rb") as stream:
            state = os.fstat(stream.fileno())
            version = (state.st_ino, state.st_size, state.st_mtime_ns)
            with self._lock:
                signed = self._signed[1] if self._signed is not None and self._signed[0] == version else None
            if signed is not None and signed.tag in known_tags:
                return signed, None
            content = stream.read()
        if signed is None:
            signed = Signed(tag=etag(content), signature=sign_document(self._key, self._kind, content))
            with self._lock:
                self._signed = (version, signed)
        return signed, None if signed.tag in known_tags else content
