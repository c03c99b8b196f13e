# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches that are too large for one request: uploaded before it, each from where a lost connection left it.

The server's blobs are described in docs/api.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from elivepatch.client.server.errors import Refused, Unreachable
from elivepatch.model.kernel import Digest
from elivepatch.model.series import SourcePatch

LARGE_BYTES = 1024 * 1024
"""What a request may hold of patches, as base64; what is beyond that is uploaded before."""

_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
# Someone else was at the same upload, or what the server had of it was damaged: what it has now is another matter.
_AGAIN = {"upload-offset", "upload-taken-over", "blob-digest"}


class Blobs(Protocol):
    """A server's blobs. Both raise Unreachable where the connection is lost, Refused for what the server says."""

    def held(self, digest: Digest) -> int | None:
        """Return how many bytes of a blob the server has, None where it has the whole of it."""

    def send(self, digest: Digest, content: bytes, *, offset: int) -> None:
        """Send a blob from its byte `offset` to its end."""


def large(patches: Sequence[SourcePatch]) -> list[SourcePatch]:
    """Return the patches that are to be uploaded: the largest ones, until the others fit into one request."""
    left = sum(_encoded(patch) for patch in patches)
    chosen: dict[Digest, SourcePatch] = {}
    for patch in sorted(patches, key=_encoded, reverse=True):
        if left <= LARGE_BYTES:
            break
        left -= _encoded(patch)
        chosen[patch.digest] = patch
    return list(chosen.values())


def upload(blobs: Blobs, patch: SourcePatch, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Bring a patch to the server, going on where a lost connection left it.

    Raises Unreachable where the server cannot be reached at the first try, or where six tries in a row bring no byte;
    Refused where it does not want the patch.
    """
    most, failures = -1, 0
    while True:
        try:
            offset = blobs.held(patch.digest)
            if offset is None:
                return
            if offset > most:
                most, failures = offset, 0
            blobs.send(patch.digest, patch.content, offset=offset if 0 <= offset <= len(patch.content) else 0)
            return
        except (Unreachable, Refused) as error:
            failures += 1
            if most < 0 or failures >= _ATTEMPTS or (isinstance(error, Refused) and error.problem.code not in _AGAIN):
                raise
        sleep(min(_FIRST_PAUSE_S * 2**failures, _LONGEST_PAUSE_S))


def _encoded(patch: SourcePatch) -> int:
    return (len(patch.content) + 2) // 3 * 4
