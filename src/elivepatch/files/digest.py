# SPDX-License-Identifier: GPL-2.0-or-later
"""SHA-256 digests, as 64 hexadecimal digits: of bytes, of files, of facts that a cache key is made from."""

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
    """Return the digest of `facts` spelled as JSON with sorted keys: equal facts, equal digests."""
    return sha256(json.dumps(facts, sort_keys=True).encode())
