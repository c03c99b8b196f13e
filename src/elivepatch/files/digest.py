# SPDX-License-Identifier: GPL-2.0-or-later
"""SHA-256 digests as 64 hexadecimal digits: of bytes, of files, of the facts in a cache key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from elivepatch.model.kernel import Digest


def sha256(content: bytes) -> Digest:
    """Return the digest of `content`."""
    return Digest(hashlib.sha256(content).hexdigest())


def sha256_file(path: Path) -> Digest:
    """Return the digest of a file's content, read piece by piece; raises OSError."""
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def sha256_json(facts: Any) -> Digest:
    """Return the digest of `facts` as JSON with sorted keys, so that equal facts have equal digests.

    Cache keys on disk rest on this spelling: a change of it makes every cache useless.
    """
    return sha256(json.dumps(facts, sort_keys=True).encode())
