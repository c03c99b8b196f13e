# SPDX-License-Identifier: GPL-2.0-or-later
"""Source patches that a tenant uploaded once, so that its build requests name them by digest.

The bytes are among the files of jobs; all tenants share one copy. A row for each tenant and patch says who may name
it: no tenant learns what another has uploaded. The row of a patch that no request names for a week is deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from elivepatch.files.digest import sha256
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.series import SERIES_LIMIT_BYTES
from elivepatch.service.db.database import now
from elivepatch.service.db.tables import patches
from elivepatch.service.errors import LimitReached
from elivepatch.service.store import Store

TENANT_BYTES = 2 << 30
"""Size of all patches of one tenant. A small patch counts as `_LEAST_BYTES`, which bounds their number too."""

KEPT = timedelta(days=7)
"""Time that an uploaded patch is kept after the last request that named it."""

_LEAST_BYTES = 64 << 10
# A patch in use is noted once a day, not with each request.
_NOTED = timedelta(days=1)
_RETRY_S = 3600


class UploadedPatches:
    """The uploaded patches of all tenants."""

    def __init__(self, database: sa.Engine, store: Store) -> None:
        self._database = database
        self._store = store
        store.on_loss = self.forget

    def missing(self, tenant: str, digests: Collection[Digest]) -> list[Digest]:
        """Return those of the digests whose patch the tenant has to upload before a request names it."""
        known = self._sizes(tenant, digests)
        return [digest for digest in dict.fromkeys(digests) if digest not in known]

    def add(self, tenant: str, digest: Digest, content: bytes) -> bool:
        """Keep an uploaded patch; return whether it is new for the tenant.

        Raises UsageError if the bytes do not have the digest or are too many, LimitReached if the tenant has uploaded
        as much as it may.
        """
        if len(content) > SERIES_LIMIT_BYTES:
            raise too_large()
        if sha256(content) != digest:
            raise UsageError(
                "blob-digest",
                "The bytes that arrived do not have the digest that the path names, and are discarded.",
                advice="Send them to the path of the SHA-256 that they have.",
            )
        new = not self._sizes(tenant, [digest])
        if new:
            self._require_space(tenant, len(content))
        # Before the row: a request that finds the row finds the bytes.
        self._store.put(content, digest)
        with self._database.begin() as connection:
            row = {"tenant": tenant, "digest": digest, "size": len(content), "used_at": now(connection)}
            insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(patches)
            connection.execute(
                insert.values(row).on_conflict_do_update(
                    index_elements=["tenant", "digest"], set_={"used_at": row["used_at"]}
                )
            )
        return new

    def use(self, tenant: str, digests: Collection[Digest]) -> dict[Digest, int]:
        """Note that a request names these patches and return their sizes in bytes.

        Raises UsageError with the code `blob-unknown` if the tenant has not uploaded one of them.
        """
        if not digests:
            return {}
        sizes = self._sizes(tenant, digests)
        if lacking := [digest for digest in digests if digest not in sizes]:
            raise UsageError(
                "blob-unknown",
                f"You have not uploaded the patch {lacking[0]}, or it was removed.",
                advice="Upload it with PUT /v1/patches/{sha256}; POST /v1/patches/missing says which ones are missing.",
            )
        with self._database.begin() as connection:
            moment = now(connection)
            connection.execute(
                sa.update(patches)
                .where(*_those(tenant, digests), patches.c.used_at < moment - _NOTED)
                .values(used_at=moment)
            )
        return sizes

    def forget(self, digest: Digest) -> None:
        """Forget a patch whose bytes were lost or changed, so that it is uploaded again."""
        with self._database.begin() as connection:
            connection.execute(sa.delete(patches).where(patches.c.digest == digest))

    def sweep(self, moment: datetime) -> int:
        """Forget the patches that no request has named for a week before `moment`; return their number."""
        with self._database.begin() as connection:
            return connection.execute(sa.delete(patches).where(patches.c.used_at < moment - KEPT)).rowcount

    def digests(self) -> set[str]:
        """Return the digests of all uploaded patches."""
        with self._database.connect() as connection:
            return set(connection.execute(sa.select(patches.c.digest).distinct()).scalars())

    def _sizes(self, tenant: str, digests: Collection[Digest]) -> dict[Digest, int]:
        query = sa.select(patches.c.digest, patches.c.size).where(*_those(tenant, digests))
        with self._database.connect() as connection:
            return {Digest(row.digest): row.size for row in connection.execute(query)}

    def _require_space(self, tenant: str, size: int) -> None:
        counted = sa.case((patches.c.size < _LEAST_BYTES, _LEAST_BYTES), else_=patches.c.size)
        query = sa.select(sa.func.coalesce(sa.func.sum(counted), 0)).where(patches.c.tenant == tenant)
        with self._database.connect() as connection:
            taken = connection.execute(query).scalar_one()
        if taken + max(size, _LEAST_BYTES) > TENANT_BYTES:
            raise LimitReached(
                "too-many-uploads",
                "Your patches take as much space on the server as they may.",
                retry_s=_RETRY_S,
                advice="The server removes a patch a week after the last request that named it.",
            )


def too_large() -> UsageError:
    """Return the error of a patch, or of a request's patches together, above the size limit."""
    return UsageError(
        "request-too-large", "The patches are larger than 24 MiB.", advice="Send only what the fix needs."
    )


def _those(tenant: str, digests: Collection[Digest]) -> Sequence[sa.ColumnElement[bool]]:
    return patches.c.tenant == tenant, patches.c.digest.in_(list(digests))
