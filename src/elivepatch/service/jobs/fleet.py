# SPDX-License-Identifier: GPL-2.0-or-later
"""Fleet: the workers of one database, their kernels and the time of their last heartbeat."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.service.db.database import now
from elivepatch.service.db.tables import workers

ALIVE_S = 4.0
"""Seconds without a heartbeat after which a worker counts as dead, even if its connection stands: it may be frozen."""

KNOWN_S = 600.0
"""Seconds after its last heartbeat for which the kernels of a worker are still offered: it may be restarting."""


KERNEL_ROUTE = "kernels"
"""Queue of the jobs that make bases; every worker serves it. The queues of a kernel's jobs are hexadecimal digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A kernel that a worker can build for.

    `facts` is the digest of everything but the series that determines the bytes. `base_patches` are the patches in its
    source before it was built, by name; None if the worker does not announce them.
    """

    kernel: KernelIdentity
    facts: Digest
    sources: Digest
    base_patches: Mapping[str, Digest] | None = None

    @property
    def route(self) -> str:
        """Queue of the jobs for this kernel: each worker that serves it would make the same bytes."""
        return self.facts[:16]

    @classmethod
    def read(cls, data: dict[str, Any]) -> Offer:
        """Return the offer that the table stores as JSON."""
        return cls(
            kernel=KernelIdentity(**data["kernel"]),
            facts=Digest(data["facts"]),
            sources=Digest(data["sources"]),
            # A worker of the version before does not announce them.
            base_patches=data.get("base_patches"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A worker as stored in the table; `silent_s` is the time since its last heartbeat."""

    name: str
    generation: str
    silent_s: float
    offers: tuple[Offer, ...]


class Fleet:
    """Workers of one database."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def announce(self, name: str, generation: str, offers: Sequence[Offer]) -> None:
        """Record that the worker `name` lives its life `generation`, and the kernels that it offers."""
        with self._database.begin() as connection:
            values = {
                "generation": generation,
                "seen_at": now(connection),
                "kernels": [asdict(offer) for offer in offers],
            }
            insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(workers)
            connection.execute(
                insert.values(name=name, **values).on_conflict_do_update(index_elements=["name"], set_=values)
            )

    def beat(self, name: str, generation: str) -> bool:
        """Record a heartbeat; return False if another worker has ended this life."""
        with self._database.begin() as connection:
            mine = (workers.c.name == name, workers.c.generation == generation)
            return bool(connection.execute(sa.update(workers).where(*mine).values(seen_at=now(connection))).rowcount)

    def end(self, name: str, *, silent_s: float) -> bool:
        """End the life of a worker without a heartbeat for `silent_s`; return False if it has had one meanwhile."""
        with self._database.begin() as connection:
            silent = workers.c.seen_at < now(connection) - timedelta(seconds=silent_s)
            ended = sa.update(workers).where(workers.c.name == name, silent).values(generation="")
            return bool(connection.execute(ended).rowcount)

    def members(self) -> list[Member]:
        """Return all workers, the most recent heartbeat first."""
        with self._database.connect() as connection:
            moment = now(connection)
            rows = connection.execute(sa.select(workers).order_by(workers.c.seen_at.desc())).mappings().all()
        return [_member(row, moment) for row in rows]

    def offers(self) -> dict[str, Offer]:
        """Return the offers by release; of several for one release, that of the most recent heartbeat."""
        found: dict[str, Offer] = {}
        for member in self.members():
            if member.silent_s < KNOWN_S:
                for offer in member.offers:
                    found.setdefault(offer.kernel.release, offer)
        return found

    def routes(self) -> set[str]:
        """Return the queues that some worker serves, or served until recently."""
        known = [member for member in self.members() if member.silent_s < KNOWN_S]
        return {offer.route for member in known for offer in member.offers} | ({KERNEL_ROUTE} if known else set())

    def forget(self, *, silent_s: float) -> int:
        """Remove workers without a heartbeat for `silent_s` and return how many they were."""
        with self._database.begin() as connection:
            silent = workers.c.seen_at < now(connection) - timedelta(seconds=silent_s)
            return connection.execute(sa.delete(workers).where(silent)).rowcount


def lock_number(name: str) -> int:
    """Return the number of the advisory lock that the worker `name` holds while it lives; 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(b"worker " + name.encode()).digest()[:8], "big", signed=True)


def _member(row: sa.RowMapping, moment: datetime) -> Member:
    return Member(
        name=row["name"],
        generation=row["generation"],
        silent_s=max(0.0, (moment - row["seen_at"]).total_seconds()),
        offers=tuple(Offer.read(kernel) for kernel in row["kernels"]),
    )
