# SPDX-License-Identifier: GPL-2.0-or-later
"""The workers: what each can build for, when it was last seen, and whose jobs must be taken over."""

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
"""A worker that was not heard of for so long is taken for dead, even where its connection stands: it may be frozen."""

KNOWN_S = 600.0
"""For so long after its last sign the kernels of a worker are still offered: it may just be restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A kernel that a worker can build for. `facts` is the digest of all but the series that decides the bytes.

    `base_patches` are those that its source had before it was built, by name; None where the worker does not tell.
    """

    kernel: KernelIdentity
    facts: Digest
    sources: Digest
    base_patches: Mapping[str, Digest] | None = None

    @property
    def route(self) -> str:
        """The line in which jobs for this kernel wait: every worker of it would make the same bytes."""
        return self.facts[:16]

    @classmethod
    def read(cls, data: dict[str, Any]) -> Offer:
        """Return the offer that the table holds as JSON."""
        return cls(
            kernel=KernelIdentity(**data["kernel"]),
            facts=Digest(data["facts"]),
            sources=Digest(data["sources"]),
            # A worker of the version before does not tell them.
            base_patches=data.get("base_patches"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A worker as the table knows it; `silent_s` is how long it was not heard of."""

    name: str
    generation: str
    silent_s: float
    offers: tuple[Offer, ...]


class Fleet:
    """The workers of one database."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def announce(self, name: str, generation: str, offers: Sequence[Offer]) -> None:
        """Note that the worker `name` lives its life `generation` and what it can build for."""
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
        """Note a sign of life; False where others took this life of the worker for ended."""
        with self._database.begin() as connection:
            mine = (workers.c.name == name, workers.c.generation == generation)
            return bool(connection.execute(sa.update(workers).where(*mine).values(seen_at=now(connection))).rowcount)

    def end(self, name: str, *, silent_s: float) -> bool:
        """End the life of a worker that was silent for so long; False where it gave a sign meanwhile."""
        with self._database.begin() as connection:
            silent = workers.c.seen_at < now(connection) - timedelta(seconds=silent_s)
            ended = sa.update(workers).where(workers.c.name == name, silent).values(generation="")
            return bool(connection.execute(ended).rowcount)

    def members(self) -> list[Member]:
        """Return all workers, the one heard of last first."""
        with self._database.connect() as connection:
            moment = now(connection)
            rows = connection.execute(sa.select(workers).order_by(workers.c.seen_at.desc())).mappings().all()
        return [_member(row, moment) for row in rows]

    def offers(self) -> dict[str, Offer]:
        """Return what can be built for, by release; the worker heard of last decides."""
        found: dict[str, Offer] = {}
        for member in self.members():
            if member.silent_s < KNOWN_S:
                for offer in member.offers:
                    found.setdefault(offer.kernel.release, offer)
        return found

    def routes(self) -> set[str]:
        """Return the lines that some worker serves, or served a moment ago."""
        return {offer.route for member in self.members() if member.silent_s < KNOWN_S for offer in member.offers}

    def forget(self, *, silent_s: float) -> int:
        """Remove workers that were not heard of for so long and return how many they were."""
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
