# SPDX-License-Identifier: GPL-2.0-or-later
"""Source patches and the series they form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from elivepatch.model.kernel import Digest

SERIES_LIMIT_BYTES = 24 << 20
"""Size of all patches of a series together: the one limit, for a request as for a builder."""


@dataclass(frozen=True, slots=True)
class SourcePatch:
    """One diff, with the bytes as they were sent. `name` is for people only and is never used as a path."""

    name: str
    content: bytes

    @property
    def digest(self) -> Digest:
        """SHA-256 of the bytes."""
        return Digest(hashlib.sha256(self.content).hexdigest())


@dataclass(frozen=True, slots=True)
class BasePatch:
    """A patch that a kernel was built with: its name for people, and the SHA-256 of its bytes."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class PatchSeries:
    """Source patches in the order in which they are applied."""

    patches: tuple[SourcePatch, ...]

    @property
    def digest(self) -> Digest:
        """SHA-256 over the digests of the patches, in order."""
        joined = "\n".join(patch.digest for patch in self.patches)
        return Digest(hashlib.sha256(joined.encode()).hexdigest())
