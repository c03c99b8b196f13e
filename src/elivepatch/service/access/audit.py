# SPDX-License-Identifier: GPL-2.0-or-later
"""Audit log: every entry holds the digest of the one before, so a change of any entry is detected.

A person who can write to the database can cut off the end of the log. To detect that, keep the digest of the last entry
elsewhere from time to time: `elivepatch-server audit verify` prints it and compares it with an older one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from elivepatch.model.kernel import Digest
from elivepatch.service.db.tables import audit

START = Digest("0" * 64)
"""The `previous` digest of the first entry."""

_ATTEMPTS = 50
_SUBJECT_LENGTH = 200
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One line of the log. `at` is ISO 8601 in UTC; `previous` is the digest of the entry before."""

    number: int
    at: str
    who: str
    tenant: str
    action: str
    subject: str
    previous: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditVerification:
    """Result of a verification: number of entries, digest of the last one, number of the first broken one if any."""

    entries: int
    head: str
    broken: int | None
    seen: bool


class Audit:
    """The audit log of one database."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def note(self, *, who: str, tenant: str, action: str, subject: str) -> None:
        """Append an entry."""
        for _ in range(_ATTEMPTS):
            try:
                with self._database.begin() as connection:
                    last = connection.execute(
                        sa.select(audit.c.number, audit.c.digest).order_by(audit.c.number.desc()).limit(1)
                    ).first()
                    facts = {
                        "number": 1 if last is None else last[0] + 1,
                        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "who": who,
                        "tenant": tenant,
                        "action": action,
                        "subject": subject[:_SUBJECT_LENGTH],
                        "previous": START if last is None else last[1],
                    }
                    connection.execute(sa.insert(audit).values(**facts, digest=_digest(facts)))
            except sa.exc.IntegrityError:
                # Another process took the number: the primary key, not a lock, prevents a fork of the chain.
                continue
            return
        message = "the audit log grows faster than it can be written"
        raise RuntimeError(message)

    def page(self, *, after: int, limit: int) -> list[AuditEntry]:
        """Return at most `limit` entries with a number above `after`, in order."""
        query = sa.select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(limit)
        with self._database.connect() as connection:
            return [AuditEntry(**row) for row in connection.execute(query).mappings()]

    def verify(self, head: str = START) -> AuditVerification:
        """Verify the whole chain; `seen` is True if `head`, a digest from an earlier run, is part of it."""
        previous, count, seen = START, 0, head == START
        for entry in self._all():
            facts = asdict(entry)
            digest = facts.pop("digest")
            if entry.number != count + 1 or entry.previous != previous or _digest(facts) != digest:
                return AuditVerification(entries=count, head=previous, broken=count + 1, seen=seen)
            count, previous = entry.number, Digest(digest)
            seen = seen or digest == head
        return AuditVerification(entries=count, head=previous, broken=None, seen=seen)

    def _all(self) -> Iterator[AuditEntry]:
        after = 0
        while entries := self.page(after=after, limit=_AT_ONCE):
            yield from entries
            after = entries[-1].number


def _digest(facts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
