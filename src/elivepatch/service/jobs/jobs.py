# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs: the request, the status, the result and the events of each.

A job goes queued → running → done; `TRANSITIONS` lists every move. A move is one conditional statement, so two
threads or processes that try the same move cannot both succeed. Every move adds an event.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from elivepatch.model.build import Result, Status
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event
from elivepatch.service.db.database import retry_while_away
from elivepatch.service.db.tables import DEFAULT_TENANT, LIVE, UNFINISHED, builds, events
from elivepatch.service.jobs.fleet import KERNEL_ROUTE

TRANSITIONS: dict[str, tuple[frozenset[Status], Status]] = {
    "begin": (frozenset({Status.QUEUED, Status.RUNNING}), Status.RUNNING),
    "interrupt": (frozenset({Status.RUNNING}), Status.RUNNING),
    "withdraw": (frozenset({Status.QUEUED}), Status.DONE),
    "finish": (frozenset({Status.QUEUED, Status.RUNNING}), Status.DONE),
}
"""For each move: the statuses it may start from and the status after it. A running job begins again after a crash."""

_MESSAGE_LENGTH = 500
_STAGE_LENGTH = 40
# A job that nobody waits for queues this many places behind those that people wait for.
_AUTOMATIC_PLACES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to submit. `request` is JSON-ready and names the patches' bytes by digest."""

    job_key: Digest
    build_key: Digest
    release: str
    kernel_build_id: str
    request: dict[str, Any]
    route: str = ""
    tenant: str = DEFAULT_TENANT
    asked_by: str = "operator"
    automatic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of a job. `reusable`: an equal request is answered with it from now on."""

    result: Result
    reusable: bool
    report: dict[str, Any]
    module_digest: Digest | None = None
    log_digest: Digest | None = None
    console_digest: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of the table; `number` counts all jobs and orders them."""

    number: int
    id: str
    job_key: Digest
    build_key: Digest
    reusable: bool
    release: str
    kernel_build_id: str
    request: dict[str, Any]
    status: Status
    result: Result | None
    cancel_requested: bool
    attempts: int
    report: dict[str, Any] | None
    module_digest: Digest | None
    log_digest: Digest | None
    console_digest: Digest | None
    created_at: datetime
    started_at: datetime | None
    done_at: datetime | None
    tenant: str
    asked_by: str
    route: str
    automatic: bool
    place: int

    @property
    def makes_base(self) -> bool:
        """True for a job that makes the base of a kernel, False for one that makes a livepatch."""
        return self.route == KERNEL_ROUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """Event of a job. `id` counts from 1; `kind` is `progress`, `state` or, once and last, `done`.

    Retention deletes progress of old jobs: ids may have gaps, and never change.
    """

    id: int
    kind: str
    data: dict[str, Any]


def _now() -> datetime:
    return datetime.now(UTC)


def _read(row: sa.RowMapping) -> Job:
    return Job(**row)


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _retried(method: _Method) -> _Method:
    """Repeat a method, which must have the same effect if it runs twice, while the database is restarted."""

    @functools.wraps(method)
    def waiting(self: Jobs, *given: Any, **named: Any) -> Any:
        return retry_while_away(lambda: method(self, *given, **named), patience_s=self.patience_s)

    return cast("_Method", waiting)


class Jobs:
    """Jobs of one database.

    `patience_s` is how long most methods wait for a database that is away: long in a worker, 0 in a server, whose
    clients wait.
    """

    def __init__(self, database: sa.Engine, *, now: Callable[[], datetime] = _now, patience_s: float = 0.0) -> None:
        self._database = database
        self._now = now
        self.patience_s = patience_s

    def submit(self, asked: NewJob) -> tuple[Job, bool]:
        """Return the job that answers `asked`, and True if it is new.

        A job of the same key that is under way, or done and reusable, answers it.
        """
        # A second round is needed if the job ended, not reusable, between the two statements.
        for _ in range(3):
            identifier = secrets.token_hex(8)
            values = asdict(asked) | {
                "id": identifier,
                "reusable": False,
                "status": Status.QUEUED,
                "cancel_requested": False,
                "attempts": 0,
                "created_at": self._now(),
            }
            try:
                with self._database.begin() as connection:
                    values["place"] = _place(connection, asked)
                    row = connection.execute(sa.insert(builds).values(**values).returning(*builds.c)).mappings().one()
                    self._add_event(connection, identifier, "state", {"status": Status.QUEUED.value})
                return _read(row), True
            except sa.exc.IntegrityError:
                found = self.answering(asked.job_key)
                if found is not None:
                    return found, False
        message = "the job of this key changes faster than it can be read"
        raise RuntimeError(message)

    def answering(self, job_key: Digest) -> Job | None:
        """Return the job that answers requests of this key: one under way, or done and reusable."""
        query = sa.select(builds).where(builds.c.job_key == job_key, LIVE)
        with self._database.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _read(row)

    @_retried
    def get(self, identifier: str) -> Job | None:
        """Return a job, or None if there is none of this id."""
        with self._database.connect() as connection:
            row = connection.execute(sa.select(builds).where(builds.c.id == identifier)).mappings().one_or_none()
        return None if row is None else _read(row)

    @_retried
    def built(self, build_key: Digest, *, release: str, tenant: str) -> Job | None:
        """Return the newest job of a tenant that has built a module for `release` under this key, None without one."""
        query = (
            sa.select(builds)
            .where(builds.c.release == release, builds.c.build_key == build_key, builds.c.tenant == tenant)
            .where(builds.c.module_digest.is_not(None))
            .order_by(builds.c.number.desc())
            .limit(1)
        )
        with self._database.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _read(row)

    def page(
        self, *, limit: int, before: int | None = None, tenant: str | None = None, release: str | None = None
    ) -> list[Job]:
        """Return at most `limit` jobs, newest first: those below the number `before`, of a tenant, for a release."""
        query = sa.select(builds).order_by(builds.c.number.desc()).limit(limit)
        if tenant is not None:
            query = query.where(builds.c.tenant == tenant)
        if release is not None:
            query = query.where(builds.c.release == release)
        if before is not None:
            query = query.where(builds.c.number < before)
        with self._database.connect() as connection:
            return [_read(row) for row in connection.execute(query).mappings()]

    def unfinished(self) -> list[Job]:
        """Return every job that is not done, oldest first."""
        # Sorted here: SQLite would read the whole table in order instead of sorting a few rows.
        query = sa.select(builds).where(UNFINISHED)
        with self._database.connect() as connection:
            found = [_read(row) for row in connection.execute(query).mappings()]
        return sorted(found, key=lambda job: job.number)

    def waiting(self, tenant: str) -> tuple[int, int]:
        """Return the number of jobs that are not done: of all tenants, and of `tenant`."""
        mine = sa.func.coalesce(sa.func.sum(sa.case((builds.c.tenant == tenant, 1), else_=0)), 0)
        with self._database.connect() as connection:
            row = connection.execute(sa.select(sa.func.count(), mine).select_from(builds).where(UNFINISHED)).one()
        return int(row[0]), int(row[1])

    def to_cancel(self) -> list[str]:
        """Return the ids of running jobs that someone has cancelled."""
        wanted = (builds.c.status == Status.RUNNING, builds.c.cancel_requested.is_(True))
        with self._database.connect() as connection:
            return list(connection.execute(sa.select(builds.c.id).where(*wanted)).scalars())

    @_retried
    def begin(self, identifier: str) -> Job | None:
        """Start a job, for the first time or again, and count the attempt; return None if it is done or unknown."""
        started = sa.func.coalesce(builds.c.started_at, sa.bindparam("now", self._now(), builds.c.started_at.type))
        with self._database.begin() as connection:
            row = (
                connection.execute(
                    self._move("begin", identifier)
                    .values(attempts=builds.c.attempts + 1, started_at=started)
                    .returning(*builds.c)
                )
                .mappings()
                .one_or_none()
            )
            if row is None:
                return None
            self._add_event(
                connection, identifier, "state", {"status": Status.RUNNING.value, "attempt": row["attempts"]}
            )
        return _read(row)

    @_retried
    def interrupt(self, identifier: str) -> None:
        """Record that the server stops while a job runs; the attempt does not count."""
        with self._database.begin() as connection:
            moved = connection.execute(
                self._move("interrupt", identifier).values(attempts=builds.c.attempts - 1)
            ).rowcount
            if moved:
                self._add_event(connection, identifier, "state", {"status": Status.RUNNING.value, "interrupted": True})

    @_retried
    def finish(self, identifier: str, outcome: Outcome, cancelled: Outcome) -> Job | None:
        """End a job with `outcome`, or with `cancelled` if someone has cancelled it; a job that is done stays as it is.

        Returns the job as it is afterwards, None if there is none.
        """
        with self._database.begin() as connection:
            self._end(connection, "finish", identifier, outcome, builds.c.cancel_requested.is_(False))
            self._end(connection, "finish", identifier, cancelled, builds.c.cancel_requested.is_(True))
        return self.get(identifier)

    def cancel(self, identifier: str, cancelled: Outcome) -> Job | None:
        """End a queued job with `cancelled`; mark a running one for its worker, which ends it.

        A job that is done stays as it is. Returns the job, None if there is none.
        """
        with self._database.begin() as connection:
            connection.execute(
                sa.update(builds)
                .where(builds.c.id == identifier, builds.c.status != Status.DONE)
                .values(cancel_requested=True)
            )
            self._end(connection, "withdraw", identifier, cancelled)
        return self.get(identifier)

    def forget(self, identifier: str) -> None:
        """Stop answering equal requests with this job: the next one makes a new job."""
        with self._database.begin() as connection:
            connection.execute(sa.update(builds).where(builds.c.id == identifier).values(reusable=False))

    @_retried
    def progress(self, identifier: str, event: Event) -> None:
        """Append progress to the events of a job; long texts are cut."""
        data = event.as_dict() | {"stage": event.stage[:_STAGE_LENGTH], "message": event.message[:_MESSAGE_LENGTH]}
        with self._database.begin() as connection:
            # A move has locked the job's row by its update. Without the lock two events could get one number; SQLite
            # needs none, its transactions write one after the other.
            connection.execute(sa.select(builds.c.id).where(builds.c.id == identifier).with_for_update())
            self._add_event(connection, identifier, "progress", data)

    def events_after(self, identifier: str, last: int, *, limit: int) -> Sequence[JobEvent]:
        """Return at most `limit` of a job's events after the one with the id `last`, in order.

        The ids count the events of this job: ids of the whole table would show tenants how many jobs others submit.
        """
        query = (
            sa.select(events.c.number, events.c.kind, events.c.data)
            .where(events.c.build == identifier, events.c.number > last)
            .order_by(events.c.number)
            .limit(limit)
        )
        with self._database.connect() as connection:
            return [JobEvent(id=row.number, kind=row.kind, data=row.data) for row in connection.execute(query)]

    def _move(self, move: str, identifier: str) -> sa.Update:
        origins, target = TRANSITIONS[move]
        return sa.update(builds).where(builds.c.id == identifier, builds.c.status.in_(origins)).values(status=target)

    def _end(
        self, connection: sa.Connection, move: str, identifier: str, outcome: Outcome, *where: sa.ColumnElement[bool]
    ) -> None:
        values = asdict(outcome) | {"done_at": self._now()}
        if connection.execute(self._move(move, identifier).where(*where).values(**values)).rowcount:
            self._add_event(
                connection, identifier, "done", {"status": Status.DONE.value, "result": outcome.result.value}
            )

    def _add_event(self, connection: sa.Connection, identifier: str, kind: str, data: dict[str, Any]) -> None:
        """Add an event; the transaction must hold the lock of the job's row."""
        earlier = events.alias()
        last = sa.select(sa.func.max(earlier.c.number)).where(earlier.c.build == identifier).scalar_subquery()
        connection.execute(
            sa.insert(events).values(
                build=identifier, at=self._now(), kind=kind, data=data, number=sa.func.coalesce(last, 0) + 1
            )
        )


def _place(connection: sa.Connection, asked: NewJob) -> int:
    """Return a new job's place in the queue: behind the jobs that have begun, one behind its tenant's own last job.

    So tenants take turns, however many jobs one of them has waiting, and nobody waits for ever: start-time fair
    queueing (Goyal, Vin, Cheng 1996), where every job counts as equally long.
    """
    begun = sa.select(sa.func.max(builds.c.place)).where(builds.c.status != Status.QUEUED)
    own = sa.select(sa.func.max(builds.c.place)).where(
        UNFINISHED, builds.c.tenant == asked.tenant, builds.c.automatic == asked.automatic
    )
    last = connection.execute(own).scalar()
    start = (connection.execute(begun).scalar() or 0) + (_AUTOMATIC_PLACES if asked.automatic else 0)
    return max(start, last or 0) + 1
