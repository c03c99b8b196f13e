# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs: what was asked, where it stands, how it ended and what happened on the way.

A job goes queued → running → done; `TRANSITIONS` is the whole of it. Every move is one conditional statement, so two
threads or processes that try the same move cannot both succeed, and every move leaves an event.
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
from elivepatch.service.db.tables import builds, events

TRANSITIONS: dict[str, tuple[frozenset[Status], Status]] = {
    "begin": (frozenset({Status.QUEUED, Status.RUNNING}), Status.RUNNING),
    "interrupt": (frozenset({Status.RUNNING}), Status.RUNNING),
    "withdraw": (frozenset({Status.QUEUED}), Status.DONE),
    "finish": (frozenset({Status.QUEUED, Status.RUNNING}), Status.DONE),
}
"""For every move: where it may start and where it leads. A begin of a running job is its recovery after a crash."""

DEFAULT_TENANT = "default"

_MESSAGE_LENGTH = 500
_STAGE_LENGTH = 40
# So many places behind those that people wait for stands a job that nobody waits for.
_AUTOMATIC_PLACES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What a job is made from. `request` is JSON-ready and names the patches' bytes by digest."""

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
    """How a job ended. `reusable` says that the same request is answered from it from now on."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One thing that happened to a job. `id` counts from 1; `kind` is `progress`, `state` or, once and last, `done`."""

    id: int
    kind: str
    data: dict[str, Any]


def _now() -> datetime:
    return datetime.now(UTC)


def _read(row: sa.RowMapping) -> Job:
    return Job(**row)


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _patient(method: _Method) -> _Method:
    """Have a method, which may be done twice, wait for a database that is restarted."""

    @functools.wraps(method)
    def waiting(self: Jobs, *given: Any, **named: Any) -> Any:
        return retry_while_away(lambda: method(self, *given, **named), patience_s=self.patience_s)

    return cast("_Method", waiting)


class Jobs:
    """The jobs of one database. A worker has patience with a database that is away, whoever answers people has none."""

    def __init__(self, database: sa.Engine, *, now: Callable[[], datetime] = _now, patience_s: float = 0.0) -> None:
        self._database = database
        self._now = now
        self.patience_s = patience_s

    def submit(self, asked: NewJob) -> tuple[Job, bool]:
        """Return the job that answers `asked` and whether it is new.

        A job of the same key that is under way, or done and reusable, is that job.
        """
        # The second round is for the job that ended, not reusable, between the two statements.
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
                    self._note(connection, identifier, "state", {"status": Status.QUEUED.value})
                return _read(row), True
            except sa.exc.IntegrityError:
                found = self.answering(asked.job_key)
                if found is not None:
                    return found, False
        message = "the job of this key changes faster than it can be read"
        raise RuntimeError(message)

    def answering(self, job_key: Digest) -> Job | None:
        """Return the job that answers requests of this key: one under way, or done and reusable."""
        live = sa.or_(builds.c.status != Status.DONE, builds.c.reusable)
        with self._database.connect() as connection:
            row = (
                connection.execute(sa.select(builds).where(builds.c.job_key == job_key, live)).mappings().one_or_none()
            )
        return None if row is None else _read(row)

    @_patient
    def get(self, identifier: str) -> Job | None:
        """Return a job, or None where there is none of that name."""
        with self._database.connect() as connection:
            row = connection.execute(sa.select(builds).where(builds.c.id == identifier)).mappings().one_or_none()
        return None if row is None else _read(row)

    def page(
        self, *, limit: int, before: int | None = None, tenant: str | None = None, release: str | None = None
    ) -> list[Job]:
        """Return at most `limit` jobs, newest first, of those with a number below `before`, of a tenant, a kernel."""
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
        query = sa.select(builds).where(builds.c.status != Status.DONE).order_by(builds.c.number)
        with self._database.connect() as connection:
            return [_read(row) for row in connection.execute(query).mappings()]

    def waiting(self, tenant: str) -> tuple[int, int]:
        """Return how many jobs are not done, in all and of a tenant."""
        mine = sa.func.coalesce(sa.func.sum(sa.case((builds.c.tenant == tenant, 1), else_=0)), 0)
        with self._database.connect() as connection:
            row = connection.execute(sa.select(sa.func.count(), mine).where(builds.c.status != Status.DONE)).one()
        return int(row[0]), int(row[1])

    def to_cancel(self) -> list[str]:
        """Return the running jobs whose end was asked for."""
        wanted = (builds.c.status == Status.RUNNING, builds.c.cancel_requested.is_(True))
        with self._database.connect() as connection:
            return list(connection.execute(sa.select(builds.c.id).where(*wanted)).scalars())

    @_patient
    def begin(self, identifier: str) -> Job | None:
        """Take a job up, for the first time or again, and count the attempt; None where it is done or unknown."""
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
            self._note(connection, identifier, "state", {"status": Status.RUNNING.value, "attempt": row["attempts"]})
        return _read(row)

    @_patient
    def interrupt(self, identifier: str) -> None:
        """Note that the server stops under a running job: it is no attempt of the job's own."""
        with self._database.begin() as connection:
            moved = connection.execute(
                self._move("interrupt", identifier).values(attempts=builds.c.attempts - 1)
            ).rowcount
            if moved:
                self._note(connection, identifier, "state", {"status": Status.RUNNING.value, "interrupted": True})

    @_patient
    def finish(self, identifier: str, outcome: Outcome, cancelled: Outcome) -> Job | None:
        """End a job with `outcome`, or with `cancelled` where that was asked for before; nothing where it is done.

        Returns the job as it is afterwards, None where there is none. Calling it again changes nothing.
        """
        with self._database.begin() as connection:
            self._end(connection, "finish", identifier, outcome, builds.c.cancel_requested.is_(False))
            self._end(connection, "finish", identifier, cancelled, builds.c.cancel_requested.is_(True))
        return self.get(identifier)

    def cancel(self, identifier: str, cancelled: Outcome) -> Job | None:
        """End a queued job with `cancelled`, ask a running one to end; returns the job, None where there is none.

        A job that is done stays as it is.
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
        """Let the same request be run anew."""
        with self._database.begin() as connection:
            connection.execute(sa.update(builds).where(builds.c.id == identifier).values(reusable=False))

    @_patient
    def progress(self, identifier: str, event: Event) -> None:
        """Append what a job is doing to its events; long words are cut."""
        data = event.as_dict() | {"stage": event.stage[:_STAGE_LENGTH], "message": event.message[:_MESSAGE_LENGTH]}
        with self._database.begin() as connection:
            self._note(connection, identifier, "progress", data)

    def events_after(self, identifier: str, last: int, *, limit: int) -> Sequence[JobEvent]:
        """Return at most `limit` of a job's events after the one with the id `last`, in order.

        The ids count the events of this job: from the table's own, tenants could tell how much others ask.
        """
        query = (
            sa.select(events.c.kind, events.c.data)
            .where(events.c.build == identifier)
            .order_by(events.c.id)
            .offset(last)
            .limit(limit)
        )
        with self._database.connect() as connection:
            rows = connection.execute(query).all()
        return [JobEvent(id=number, kind=row.kind, data=row.data) for number, row in enumerate(rows, start=last + 1)]

    def _move(self, move: str, identifier: str) -> sa.Update:
        origins, target = TRANSITIONS[move]
        return sa.update(builds).where(builds.c.id == identifier, builds.c.status.in_(origins)).values(status=target)

    def _end(
        self, connection: sa.Connection, move: str, identifier: str, outcome: Outcome, *where: sa.ColumnElement[bool]
    ) -> None:
        values = asdict(outcome) | {"done_at": self._now()}
        if connection.execute(self._move(move, identifier).where(*where).values(**values)).rowcount:
            self._note(connection, identifier, "done", {"status": Status.DONE.value, "result": outcome.result.value})

    def _note(self, connection: sa.Connection, identifier: str, kind: str, data: dict[str, Any]) -> None:
        connection.execute(sa.insert(events).values(build=identifier, at=self._now(), kind=kind, data=data))


def _place(connection: sa.Connection, asked: NewJob) -> int:
    """Return a new job's turn: behind the jobs that have begun, and one behind its tenant's own last one.

    So tenants take turns however many jobs one of them has waiting, and nobody waits for ever: start-time fair queueing
    (Goyal, Vin, Cheng 1996) with every job taken to be as long as any other.
    """
    unfinished = builds.c.status != Status.DONE
    begun = sa.select(sa.func.max(builds.c.place)).where(builds.c.status != Status.QUEUED)
    own = sa.select(sa.func.max(builds.c.place)).where(
        unfinished, builds.c.tenant == asked.tenant, builds.c.automatic == asked.automatic
    )
    last = connection.execute(own).scalar()
    start = (connection.execute(begun).scalar() or 0) + (_AUTOMATIC_PLACES if asked.automatic else 0)
    return max(start, last or 0) + 1
