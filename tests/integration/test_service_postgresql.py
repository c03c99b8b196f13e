# SPDX-License-Identifier: GPL-2.0-or-later
"""The same tables and jobs on PostgreSQL: a throw-away cluster on a socket of its own."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres import PROGRAMS, Postgres
from query_plans import recorded
from running_server import free_port

from elivepatch.files.digest import sha256
from elivepatch.model.build import Result, Status
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event
from elivepatch.service.access.accounts import Role, Tokens
from elivepatch.service.access.signing_key import open_signing_key
from elivepatch.service.db.database import advisory_lock, migrate, open_database
from elivepatch.service.db.hosts import HostReports
from elivepatch.service.db.tables import metadata, partial_indexes
from elivepatch.service.db.tables import patches as uploaded
from elivepatch.service.jobs.jobs import Jobs, NewJob, Outcome
from elivepatch.service.patches import UploadedPatches
from elivepatch.service.store import Store

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not PROGRAMS, reason="no PostgreSQL server is installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the server is started as another user"),
]

_TIMEOUTS = ("statement_timeout", "idle_in_transaction_session_timeout")
CANCELLED = Outcome(result=Result.CANCELLED, reusable=False, report={})
SUCCESS = Outcome(result=Result.SUCCESS, reusable=True, report={"n": 1}, module_digest=Digest("ab" * 32))


@pytest.fixture(scope="module")
def database() -> Iterator[sa.Engine]:
    with Postgres(free_port()) as server:
        engine = open_database(server.url)
        migrate(engine)
        yield engine
        engine.dispose()


def asked(key: str) -> NewJob:
    return NewJob(
        job_key=Digest(key * 32), build_key=Digest("bb" * 32), release="6.1.0", kernel_build_id="cc", request={"p": []}
    )


def test_the_migrations_make_the_tables_that_the_code_names(database: sa.Engine) -> None:
    migrate(database)
    assert partial_indexes()
    with database.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_uploaded_patches_are_known_to_their_tenant_until_they_are_unused_for_a_week(
    database: sa.Engine, tmp_path: Path
) -> None:
    patches = UploadedPatches(database, Store.in_directory(tmp_path))
    one, other = sha256(b"one"), sha256(b"other")
    assert patches.add("red", one, b"one")
    assert not patches.add("red", one, b"one")
    assert patches.add("red", other, b"other")
    assert patches.missing("red", [one, other]) == []
    assert patches.missing("blue", [one]) == [one]
    assert patches.use("red", [one]) == {one: 3}
    week = datetime.now(UTC) + timedelta(days=8)
    with database.begin() as connection:
        connection.execute(sa.update(uploaded).where(uploaded.c.digest == one).values(used_at=week))
    assert patches.sweep(week) == 1
    assert patches.digests() == {one}
    patches.forget(one)
    assert patches.missing("red", [one]) == [one]


def test_a_job_goes_its_way(database: sa.Engine) -> None:
    jobs = Jobs(database)
    job, new = jobs.submit(asked("a0"))
    assert new
    begun = jobs.begin(job.id)
    assert begun is not None
    jobs.progress(job.id, Event(stage="link", message="links", fraction=0.5))
    done = jobs.finish(job.id, SUCCESS, CANCELLED)
    assert done is not None
    assert (done.status, done.result, done.report) == (Status.DONE, Result.SUCCESS, {"n": 1})
    assert done.done_at is not None
    assert done.done_at.utcoffset() is not None
    assert jobs.begin(job.id) is None
    assert jobs.submit(asked("a0")) == (done, False)
    assert [event.kind for event in jobs.events_after(job.id, 0, limit=10)] == ["state", "state", "progress", "done"]


def test_the_statements_of_a_request_are_answered_by_the_partial_indexes(database: sa.Engine) -> None:
    jobs = Jobs(database)
    with recorded(database) as recorder:
        jobs.answering(Digest("a0" * 32))
        jobs.waiting("default")
        jobs.unfinished()
    answering, waiting, unfinished = recorder.plans()
    assert "uq_builds_live_job_key" in answering
    assert "ix_builds_unfinished" in waiting
    assert "ix_builds_unfinished" in unfinished


def test_events_written_at_once_get_numbers_of_their_own(database: sa.Engine) -> None:
    jobs = Jobs(database)
    job, _ = jobs.submit(asked("e0"))
    with ThreadPoolExecutor(12) as crowd:
        list(crowd.map(lambda n: jobs.progress(job.id, Event(stage="link", message=str(n))), range(48)))
    assert [event.id for event in jobs.events_after(job.id, 0, limit=100)] == list(range(1, 50))


def test_many_who_ask_the_same_get_one_job(database: sa.Engine) -> None:
    jobs = Jobs(database)
    with ThreadPoolExecutor(12) as crowd:
        answers = list(crowd.map(lambda _: jobs.submit(asked("b0")), range(48)))
    assert len({job.id for job, _ in answers}) == 1
    assert [new for _, new in answers].count(True) == 1


def test_many_who_end_the_same_job_end_it_once(database: sa.Engine) -> None:
    jobs = Jobs(database)
    job, _ = jobs.submit(asked("c0"))
    jobs.begin(job.id)
    with ThreadPoolExecutor(12) as crowd:
        list(crowd.map(lambda _: jobs.finish(job.id, SUCCESS, CANCELLED), range(24)))
    assert [event.kind for event in jobs.events_after(job.id, 0, limit=100)].count("done") == 1


def test_a_token_is_made_once(database: sa.Engine, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.token" for number in range(12)]
    with ThreadPoolExecutor(12) as crowd:
        made = list(crowd.map(Tokens(database).ensure_operator, files))
    assert made.count(True) == 1
    (written,) = tmp_path.iterdir()
    Tokens(database).check(written.read_text().strip())
    assert not Tokens(database).ensure_operator(written)


def test_a_signing_key_is_made_once(database: sa.Engine, tmp_path: Path) -> None:
    def start(number: int) -> str:
        try:
            return open_signing_key(database, tmp_path / f"{number}.key", shared=True).public.fingerprint
        except EnvironmentFault as fault:
            return fault.problem.code

    with ThreadPoolExecutor(12) as crowd:
        found = list(crowd.map(start, range(12)))
    assert found.count("signing-key") == 11
    assert len(list(tmp_path.glob("*.key"))) == 1


def test_the_last_word_of_a_host_counts(database: sa.Engine) -> None:
    reports = HostReports(database)
    for name in ("b", "a", "b", "c"):
        reports.record("web", name, "default", {"kernel": "6.1.0"}, limit=2)
    assert [row["name"] for row in reports.page(None, after=("", ""), limit=5)] == ["b", "c"]
    assert [row["name"] for row in reports.page(None, after=("b", "web"), limit=5)] == ["c"]
    assert reports.expire(timedelta(days=1)) == 0
    assert reports.remove("default", "b") == 1


def test_a_database_of_the_version_before_keeps_what_it_has() -> None:
    with Postgres(free_port()) as server:
        engine = open_database(server.url)
        migrate(engine, "0001")
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO tokens (digest, name, created_at) VALUES ('00', 'operator', '2026-11-20 12:00:00+00:00')"
            )
        migrate(engine)
        (token,) = Tokens(engine).list()
        assert (token.name, token.role, token.tenant) == ("operator", Role.OPERATOR, "default")
        engine.dispose()


def test_who_waits_for_the_tables_does_not_hold_up_who_makes_them(database: sa.Engine) -> None:
    """An index made concurrently waits for every running statement, also for that of a process that waits for it."""
    waiting = threading.Event()

    def other_process() -> None:
        waiting.set()
        with advisory_lock(database, 7):
            pass

    waits = threading.Thread(target=other_process)
    with advisory_lock(database, 7):
        waits.start()
        waiting.wait()
        time.sleep(1)
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET statement_timeout = '10s'")
            connection.exec_driver_sql("CREATE INDEX CONCURRENTLY of_this_test ON audit (who)")
            connection.exec_driver_sql("DROP INDEX of_this_test")
        assert waits.is_alive()
    waits.join(timeout=10)
    assert not waits.is_alive()


def test_a_process_that_was_frozen_inside_a_transaction_loses_its_locks(database: sa.Engine) -> None:
    """Otherwise the worker that takes its jobs over would wait for it, and would itself be silent meanwhile."""
    with database.connect() as frozen, database.begin() as other:
        frozen.exec_driver_sql("LOCK TABLE builds IN EXCLUSIVE MODE")
        other.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
        other.exec_driver_sql("SELECT * FROM builds FOR UPDATE")
        with pytest.raises(sa.exc.DBAPIError) as lost:
            frozen.exec_driver_sql("SELECT 1")
    assert lost.value.connection_invalidated


def test_the_operators_own_options_of_a_connection_stay(database: sa.Engine) -> None:
    url = database.url.difference_update_query(["options", "connect_timeout"])
    url = url.update_query_dict({"options": "-c statement_timeout=7000", "connect_timeout": "3"})
    engine = open_database(url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in _TIMEOUTS]
    engine.dispose()
    assert shown == ["7s", "3s"]


def test_a_database_that_went_away_with_its_host_is_noticed_in_seconds(database: sa.Engine) -> None:
    with database.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with socket.fromfd(driver.fileno(), socket.AF_INET, socket.SOCK_STREAM) as raw:
            unacknowledged = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            quiet = [
                raw.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ]
    assert unacknowledged == 11_000
    assert quiet[0] + quiet[1] * quiet[2] == 11
