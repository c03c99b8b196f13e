# SPDX-License-Identifier: GPL-2.0-or-later
"""The source patches that whoever may not ask for any patch may still ask for: the files below one directory."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

from elivepatch.model.errors import TrustError
from elivepatch.model.series import SeriesReference

_FRESH_S = 10.0
_MAX_FILES = 50_000
_MAX_FILE_BYTES = 1024 * 1024


class AllowedPatches:
    """The trusted patches of a directory, by the digest of their bytes; an empty text trusts none."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._digests: frozenset[str] = frozenset()

    def check(self, series: SeriesReference) -> None:
        """Raise TrustError with the code `patch-not-trusted` where a patch of the series is not one of them."""
        known = self._known()
        for patch in series.patches:
            if patch.digest not in known:
                raise TrustError(
                    "patch-not-trusted",
                    f"{patch.name} is none of the server's trusted patches.",
                    advice="Ask with a token of the role patcher, or have the patch added to the server's overlays.",
                )

    def _known(self) -> frozenset[str]:
        with self._lock:
            if self._directory and time.monotonic() - self._read_at > _FRESH_S:
                self._digests = frozenset(_digests(Path(self._directory)))
                self._read_at = time.monotonic()
            return self._digests


def _digests(directory: Path) -> list[str]:
    found: list[str] = []
    for top, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            file = Path(top, name)
            if not name.endswith((".patch", ".diff")) or not file.is_file() or file.stat().st_size > _MAX_FILE_BYTES:
                continue
            found.append(hashlib.sha256(file.read_bytes()).hexdigest())
            if len(found) >= _MAX_FILES:
                return found
    return found
