# SPDX-License-Identifier: GPL-2.0-or-later
"""Heartbeat of a worker, and take-over of dead workers' jobs (on PostgreSQL, where several share a database).

A living worker holds an advisory lock of the database by its name and writes a heartbeat twice a second. Another worker
that finds the lock free and the heartbeat old ends that life and puts its jobs back into their queues. A frozen worker
keeps its connection, and so its lock: if its heartbeat is old enough, another worker ends the connection. A worker that
finds its life ended abandons its jobs and begins a new one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import sqlalchemy as sa
import structlog

from elivepatch.model.errors import EnvironmentFault, TrustError
from elivepatch.model.kernel import Digest
from elivepatch.service.db.database import retry_while_away
from elivepatch.service.jobs.backend import BuildBackend
from elivepatch.service.jobs.engine import Engine, Runner
from elivepatch.service.jobs.fleet import ALIVE_S, Fleet, Offer, lock_number
from elivepatch.service.jobs.jobs import Jobs
from elivepatch.service.jobs.steps import JobSteps
from elivepatch.service.store import Store

_BEAT_S = 0.5
# Nobody takes over from a server that is alone with its database, and cancellations reach its jobs within the process.
_BEAT_ALONE_S = 1.5
_ANNOUNCE_S = 5.0
# A free lock alone proves nothing: a database that was restarted has lost all locks.
_LOST_S = 2.0
# After the database was away, every worker gets so long to write a heartbeat.
_SETTLE_S = 2.5
_NAME_WAIT_S = 12.0

_logger = structlog.get_logger()


class Heartbeat:
    """Heartbeat of one worker; also announces the kernels that it can build for, and takes over dead workers' jobs."""

    def __init__(
        self,
        *,
        name: str,
        database: sa.Engine,
        jobs: Jobs,
        store: Store,
        engine: Engine,
        backend: BuildBackend,
        steps: JobSteps,
        runner: Runner,
    ) -> None:
        self._name = name
        self._shared = database.dialect.name != "sqlite"
        self._database = database
        self._jobs = jobs
        self._store = store
        self._engine = engine
        self._backend = backend
        self._steps = steps
        self._runner = runner
        self._fleet = Fleet(database)
        self._generation = secrets.token_hex(8)
        self._offers: tuple[Offer, ...] = ()
        self._sources: dict[Digest, Digest] = {}
        self._revision = ""
        self._left_out: set[str] = set()
        self._lock: sa.Connection | None = None
        self._quiet_until = 0.0
        self._stopping = threading.Event()
        # A new base is announced by the thread that made it, too.
        self._announcing = threading.Lock()
        self._steps.on_new_kernel = self._announce_changes
        beat_s = _BEAT_S if self._shared else _BEAT_ALONE_S
        rounds = (("heartbeat", self._beat, beat_s), ("offers", self._announce_changes, _ANNOUNCE_S))
        self._threads = [
            threading.Thread(target=self._repeat, args=(round_, every_s), name=name, daemon=True)
            for name, round_, every_s in rounds
        ]

    def start(self) -> None:
        """Take the worker's name, announce its kernels, and run jobs.

        Raises EnvironmentFault with the code `worker-name` if another worker of this name lives.
        """
        if self._shared:
            self._take_name()
        self._offers = self._current_offers()
        self._fleet.announce(self._name, self._generation, self._offers)
        self._runner.start({offer.route for offer in self._offers})
        if not self._shared:
            # No other process shares the database: any other worker that ran jobs here is dead.
            for other in self._engine.running_on() - {self._name}:
                self._runner.take_over(other)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the heartbeat; the name is free at once."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=2.0)
        self._let_go()

    def _sources_of(self, release: str, facts: Digest) -> Digest:
        """Return the digest of a kernel's sources in the store.

        Computed only if no worker announced them before: a restart would compute those of every kernel first.
        """
        for offer in (offer for member in self._fleet.members() for offer in member.offers if offer.facts == facts):
            with suppress(EnvironmentFault, TrustError):
                self._store.verify(offer.sources)
                return offer.sources
        return self._store.put(self._backend.encoded_sources(release))

    def is_alive(self) -> bool:
        """Return whether the thread of the heartbeat runs."""
        return self._threads[0].is_alive()

    def _take_name(self) -> None:
        deadline = time.monotonic() + _NAME_WAIT_S
        # A worker that is restarted may be quicker than the database is to notice the end of the one before.
        while not retry_while_away(self._holds_lock):
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    "worker-name",
                    f"Another worker of the name {self._name} is running.",
                    advice="Give each worker a name of its own with --worker.",
                )
            time.sleep(0.5)

    def _holds_lock(self) -> bool:
        """Return whether this process holds the lock of its name; take it if it is free."""
        if self._lock is not None:
            try:
                self._lock.execute(sa.text("SELECT 1"))
                return True
            except sa.exc.DBAPIError:
                _logger.warning("heartbeat.connection-lost", worker=self._name)
                self._let_go()
        connection = self._database.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._quiet_until = time.monotonic() + _SETTLE_S
        try:
            if _try_lock(connection, self._name):
                self._lock = connection
                return True
        finally:
            if self._lock is None:
                connection.close()
        return False

    def _let_go(self) -> None:
        if self._lock is not None:
            # Not back into the pool: the lock is the connection's.
            self._lock.invalidate()
            self._lock.close()
            self._lock = None

    def _beat(self) -> None:
        if self._shared and not self._holds_lock():
            return
        if not self._fleet.beat(self._name, self._generation):
            _logger.error("worker.was-taken-for-dead", worker=self._name)
            self._steps.abandon()
            self._generation = secrets.token_hex(8)
            self._fleet.announce(self._name, self._generation, self._offers)
        for job in self._jobs.to_cancel():
            self._steps.cancel(job)
        if self._shared and time.monotonic() > self._quiet_until:
            self._watch()

    def _watch(self) -> None:
        others = self._engine.running_on() - {self._name}
        if not others:
            return
        silent = {member.name: member.silent_s for member in self._fleet.members()}
        for other in sorted(others):
            if silent.get(other, ALIVE_S) > _LOST_S:
                self._take_over(other, frozen=silent.get(other, 0.0) > ALIVE_S)

    def _take_over(self, other: str, *, frozen: bool) -> None:
        with self._database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not _try_lock(connection, other):
                if frozen:
                    _logger.warning("worker.frozen", worker=other)
                    _end_holder(connection, other)
                return
            try:
                # A worker without a row never announced itself, so it cannot come back either.
                if self._fleet.end(other, silent_s=_LOST_S) or other not in {m.name for m in self._fleet.members()}:
                    jobs = self._runner.take_over(other)
                    _logger.warning("worker.taken-over", worker=other, jobs=jobs)
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:number)"), {"number": lock_number(other)})

    def _announce_changes(self) -> None:
        with self._announcing:
            self._announce_if_changed()

    def _announce_if_changed(self) -> None:
        # Bases are read only after a change; a kernel that was left out is tried again in each round.
        revision = self._backend.revision()
        if revision == self._revision and not self._left_out:
            return
        offers = self._current_offers()
        if offers != self._offers:
            self._offers = offers
            self._fleet.announce(self._name, self._generation, offers)
            self._runner.listen({offer.route for offer in offers})
        self._revision = revision

    def _current_offers(self) -> tuple[Offer, ...]:
        offers, left_out = [], {}
        for kernel in self._backend.kernels():
            try:
                facts = self._backend.facts(kernel.release)
                patches = dict(self._backend.base_patches(kernel.release))
                if facts not in self._sources:
                    self._sources[facts] = self._sources_of(kernel.release, facts)
            except EnvironmentFault as fault:
                # Its toolchain is missing, or of another version: the other kernels are offered all the same.
                left_out[kernel.release] = fault.problem
                continue
            offers.append(Offer(kernel=kernel, facts=facts, sources=self._sources[facts], base_patches=patches))
        for release, problem in left_out.items():
            if release not in self._left_out:
                _logger.warning(
                    "kernel.left-out", kernel=release, code=problem.code, message=problem.message, advice=problem.advice
                )
        self._left_out = set(left_out)
        return tuple(offers)

    def _repeat(self, round_: Callable[[], None], every_s: float) -> None:
        failing = False
        while not self._stopping.wait(every_s):
            try:
                round_()
                failing = False
            except Exception as error:  # noqa: BLE001 - a round that fails must not be the last
                if not failing:
                    _logger.warning("heartbeat.round-failed", what=round_.__name__, error=str(error)[:300])
                failing = True


def _try_lock(connection: sa.Connection, name: str) -> bool:
    taken = connection.execute(sa.text("SELECT pg_try_advisory_lock(:number)"), {"number": lock_number(name)})
    return bool(taken.scalar_one())


def _end_holder(connection: sa.Connection, name: str) -> None:
    """End the connection that holds a worker's lock (pg_locks: a 64-bit key is classid and objid)."""
    number = lock_number(name) & (2**64 - 1)
    connection.execute(
        sa.text(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid::bigint = :high AND objid::bigint = :low"
        ),
        {"high": number >> 32, "low": number & (2**32 - 1)},
    )
