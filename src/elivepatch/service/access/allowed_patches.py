# SPDX-License-Identifier: GPL-2.0-or-later
"""Source patches that the role `submitter` may build: the files below one directory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from elivepatch.files.digest import sha256
from elivepatch.files.signature import StatSignature, stat_signature
from elivepatch.model.errors import TrustError
from elivepatch.model.series import SeriesReference

_FRESH_S = 10.0
_MAX_FILES = 50_000
_MAX_FILE_BYTES = 1024 * 1024


class AllowedPatches:
    """Digests of the patches in a directory, which is listed every ten seconds; an empty name allows no patch.

    A file is read and hashed again only after a change: the directory may hold a clone of many thousand patches.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._listed_at = float("-inf")
        self._known: dict[Path, tuple[StatSignature | None, str]] = {}
        self._digests: frozenset[str] = frozenset()

    def check(self, series: SeriesReference) -> None:
        """Raise TrustError with the code `patch-not-trusted` if a patch of the series is not one of them."""
        digests = self._current()
        for patch in series.patches:
            if patch.digest not in digests:
                raise TrustError(
                    "patch-not-trusted",
                    f"{patch.name} is not one of the server's trusted patches.",
                    advice="Use a token of the role patcher, or have the patch added to the server's overlays.",
                )

    def _current(self) -> frozenset[str]:
        with self._lock:
            if self._directory and time.monotonic() - self._listed_at > _FRESH_S:
                self._known = {
                    file: known
                    for file in islice(_patch_files(Path(self._directory)), _MAX_FILES)
                    if (known := self._read(file)) is not None
                }
                self._digests = frozenset(digest for _, digest in self._known.values())
                self._listed_at = time.monotonic()
            return self._digests

    def _read(self, file: Path) -> tuple[StatSignature | None, str] | None:
        """Return signature and digest of a file, None if it is gone, too large or not a regular file."""
        try:
            found = stat_signature(file)
            known = self._known.get(file)
            if known is not None and known[0] == found:
                return known
            if not file.is_file() or found.size > _MAX_FILE_BYTES:
                return None
            # A file that has just changed may change again and keep its signature: read it again the next time.
            return found if found.is_settled else None, sha256(file.read_bytes())
        except FileNotFoundError:
            return None


def _patch_files(directory: Path) -> Iterator[Path]:
    for top, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            if name.endswith((".patch", ".diff")):
                yield Path(top, name)
