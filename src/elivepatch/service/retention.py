# SPDX-License-Identifier: GPL-2.0-or-later
"""Retention: removes old jobs and their events, the execution of ended jobs, and files without a reference.

A file is removed only if no job in any state and no worker's offer names it, and if it is a day old: a reference to it
may be about to be written to the database. An uploaded patch is removed after a week without a request that names it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog

from elivepatch.model.build import Status, patches_of
from elivepatch.service.db.database import advisory_lock, is_away
from elivepatch.service.db.hosts import HostReports
from elivepatch.service.db.tables import builds, events
from elivepatch.service.resources import Resources

_EVERY_S = 3600.0
_FIRST_S = 60.0
_SWEEPING = 0x656C7003
_AT_ONCE = 500
_FILES = ("module_digest", "log_digest", "console_digest")
# The time for which the progress of an ended job, and its execution, can still be read.
_PROGRESS = timedelta(days=7)
_EXECUTION = timedelta(hours=1)
_SILENT_WORKER_S = 7 * 24 * 3600.0

_logger = structlog.get_logger()


class Retention:
    """Removes old data every hour."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._keep = timedelta(days=resources.settings.keep_days)
        self._keep_hosts = timedelta(days=resources.settings.keep_hosts_days)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._rounds, name="retention", daemon=True)
        # The execution of jobs that ended before this moment has been removed.
        self._forgotten = datetime.min.replace(tzinfo=UTC)
        # The progress of jobs that ended before this time is deleted already.
        self._progress_deleted = datetime.min.replace(tzinfo=UTC)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._thread.join(timeout=2.0)

    def sweep(self, *, now: datetime | None = None) -> dict[str, int]:
        """Remove old data once and return the number of removed things by kind."""
        moment = now or datetime.now(UTC)
        with advisory_lock(self._resources.database, _SWEEPING):
            removed = {
                "executions": self._forget_executions(moment),
                "events": self._delete_progress(moment - _PROGRESS),
                "jobs": self._delete_jobs(moment - self._keep),
                "hosts": HostReports(self._resources.database).expire(self._keep_hosts),
                "workers": self._resources.fleet.forget(silent_s=_SILENT_WORKER_S),
            }
            removed["patches"] = self._resources.patches.sweep(moment)
            removed["files"] = self._resources.store.collect(self._named())
        if any(removed.values()):
            _logger.info("retention.swept", **removed)
        return removed

    def _forget_executions(self, moment: datetime) -> int:
        until = moment - _EXECUTION
        ended = sa.select(builds.c.id).where(
            builds.c.status == Status.DONE, builds.c.done_at > self._forgotten, builds.c.done_at <= until
        )
        with self._resources.database.connect() as connection:
            jobs = list(connection.execute(ended).scalars())
        self._resources.engine.forget(jobs)
        self._forgotten = until
        return len(jobs)

    def _delete_progress(self, until: datetime) -> int:
        # Only jobs that became old since the last round: to look at all of them would hold SQLite's lock for long.
        old = sa.select(builds.c.id).where(
            builds.c.status == Status.DONE, builds.c.done_at >= self._progress_deleted, builds.c.done_at < until
        )
        with self._resources.database.begin() as connection:
            deleted = connection.execute(
                sa.delete(events).where(events.c.kind == "progress", events.c.build.in_(old))
            ).rowcount
        self._progress_deleted = until
        return deleted

    def _delete_jobs(self, until: datetime) -> int:
        # Never a job under way, however long it takes.
        old = (builds.c.status == Status.DONE, builds.c.done_at < until)
        with self._resources.database.begin() as connection:
            return connection.execute(sa.delete(builds).where(*old)).rowcount

    def _named(self) -> set[str]:
        named = {str(offer.sources) for member in self._resources.fleet.members() for offer in member.offers}
        named |= self._resources.patches.digests()
        last = 0
        while rows := self._after(last):
            for row in rows:
                named.update(str(row[column]) for column in _FILES if row[column] is not None)
                if row["built"] is not None:  # by a job whose trial failed: that trial may be replayed
                    named.add(row["built"])
                named.update(patch.digest for patch in patches_of(row["request"]))
            last = rows[-1]["number"]
        return named

    def _after(self, number: int) -> Sequence[sa.RowMapping]:
        columns = [builds.c[name] for name in ("number", "request", *_FILES)]
        columns.append(builds.c.report["livepatch"]["digest"].as_string().label("built"))
        query = sa.select(*columns).where(builds.c.number > number).order_by(builds.c.number).limit(_AT_ONCE)
        with self._resources.database.connect() as connection:
            return connection.execute(query).mappings().all()

    def _rounds(self) -> None:
        wait_s = _FIRST_S
        while not self._stopping.wait(wait_s):
            wait_s = _EVERY_S
            try:
                self.sweep()
            except Exception as error:
                # A round that fails, for example on a full disk, must not be the last.
                if is_away(error):
                    _logger.warning("retention.database-away")
                else:
                    _logger.exception("retention.round-failed")
