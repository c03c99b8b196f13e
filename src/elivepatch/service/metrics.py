# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures for Prometheus: the queue, durations of steps, results of jobs, reused answers, refusals, disks.

Jobs are counted in the database at each scrape, so that every server reports the jobs of all workers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from elivepatch.model.build import Status
from elivepatch.service.db.tables import UNFINISHED, builds
from elivepatch.service.http.limits import Capacity
from elivepatch.service.jobs.fleet import ALIVE_S, Fleet

_STEP_BUCKETS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
# A row is committed a little later than the time that it holds.
_OVERLAP = timedelta(seconds=30)


class _CurrentState(Collector):
    """Gauges that are computed when Prometheus scrapes."""

    def __init__(self, database: sa.Engine, fleet: Fleet, capacity: Capacity) -> None:
        self._database = database
        self._fleet = fleet
        self._capacity = capacity

    def collect(self) -> Iterable[Metric]:
        """Return the gauges (prometheus_client's interface)."""
        with self._database.connect() as connection:
            rows = connection.execute(
                sa.select(builds.c.status, sa.func.count()).where(UNFINISHED).group_by(builds.c.status)
            ).all()
            counts: dict[Status, int] = {row[0]: row[1] for row in rows}
            oldest = connection.execute(
                sa.select(sa.func.min(builds.c.created_at)).where(builds.c.status == Status.QUEUED)
            ).scalar()
        jobs = GaugeMetricFamily("elivepatch_jobs", "Jobs that are not done.", labels=["status"])
        for status in (Status.QUEUED, Status.RUNNING):
            jobs.add_metric([status.value], counts.get(status, 0))
        yield jobs
        age = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        yield GaugeMetricFamily("elivepatch_queue_age_seconds", "Age of the oldest queued job.", value=age)
        alive = sum(member.silent_s < ALIVE_S for member in self._fleet.members())
        yield GaugeMetricFamily("elivepatch_workers", "Live workers.", value=alive)
        yield GaugeMetricFamily(
            "elivepatch_disk_free_bytes",
            "Free space on the fuller of the server's disks.",
            value=self._capacity.free_bytes(),
        )


class Metrics:
    """The figures of one server."""

    def __init__(self, database: sa.Engine, fleet: Fleet, capacity: Capacity) -> None:
        self._database = database
        self._registry = CollectorRegistry()
        self._registry.register(_CurrentState(database, fleet, capacity))
        self._asked = Counter(
            "elivepatch_builds_asked",
            "Build requests, by a new job or an earlier one.",
            ["answer"],
            registry=self._registry,
        )
        self._refused = Counter(
            "elivepatch_requests_refused", "Requests that were refused, by code.", ["code"], registry=self._registry
        )
        self._ended = Counter(
            "elivepatch_jobs_ended", "Jobs that ended, by result and code.", ["result", "code"], registry=self._registry
        )
        self._seconds = Histogram(
            "elivepatch_step_seconds",
            "Durations of the steps of jobs.",
            ["step"],
            buckets=_STEP_BUCKETS,
            registry=self._registry,
        )
        self._lock = threading.Lock()
        self._since = datetime.now(UTC)
        self._counted: dict[str, datetime] = {}

    def asked(self, *, new: bool) -> None:
        """Count a build request: answered by a new job, or by an earlier one."""
        self._asked.labels("new" if new else "known").inc()

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._refused.labels(code).inc()

    def render(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        with self._lock:
            self._count_done()
        return generate_latest(self._registry)

    def _count_done(self) -> None:
        since = self._since - _OVERLAP
        query = (
            sa.select(builds.c.id, builds.c.result, builds.c.report, builds.c.done_at)
            .where(builds.c.done_at > since)
            .order_by(builds.c.done_at)
        )
        with self._database.connect() as connection:
            rows = connection.execute(query).all()
        self._counted = {job: at for job, at in self._counted.items() if at > since}
        for row in rows:
            if row.id in self._counted:
                continue
            self._counted[row.id] = row.done_at
            self._since = max(self._since, row.done_at)
            report = row.report or {}
            self._ended.labels(row.result.value, (report.get("problem") or {}).get("code", "")).inc()
            for step, seconds in (report.get("seconds") or {}).items():
                self._seconds.labels(step).observe(seconds)
