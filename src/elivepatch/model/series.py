# SPDX-License-Identifier: GPL-2.0-or-later
"""Source patches and the series they form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from elivepatch.model.kernel import Digest

SERIES_LIMIT_BYTES = 24 << 20
"""Size of all patches of a series together: the one limit, for a request as for a builder."""


PATCHES_LIMIT = 4096
"""Number of patches of one series."""


class PatchIdentity(Protocol):
    """Name of a patch for people, and the SHA-256 of its bytes."""

    @property
    def name(self) -> str:
        """Name for people; never used as a path."""

    @property
    def digest(self) -> Digest:
        """SHA-256 of the bytes."""


# Without slots: the digest is kept where functools looks for it, so that each patch is hashed once.
@dataclass(frozen=True)
class SourcePatch:
    """One diff, with the bytes as they were sent. `name` is for people only and is never used as a path."""

    name: str
    content: bytes

    @cached_property
    def digest(self) -> Digest:
        """SHA-256 of the bytes."""
        return Digest(hashlib.sha256(self.content).hexdigest())


@dataclass(frozen=True, slots=True)
class PatchReference:
    """A patch by its digest, without its bytes. `name` is for people only."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class BasePatch(PatchReference):
    """A patch that a kernel was built with."""


@dataclass(frozen=True, slots=True)
class SeriesReference:
    """Patches by their digests, in the order in which they are applied."""

    patches: tuple[PatchIdentity, ...]

    @property
    def digest(self) -> Digest:
        """SHA-256 over the digests of the patches, in order."""
        joined = "\n".join(patch.digest for patch in self.patches)
        return Digest(hashlib.sha256(joined.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class PatchSeries(SeriesReference):
    """Source patches in the order in which they are applied."""

    patches: tuple[SourcePatch, ...]
