# SPDX-License-Identifier: GPL-2.0-or-later
"""Waking of those who follow a job: nothing is asked while nobody follows, and nothing is missed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from deadline import wait_until

from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.http.streams import EventNotifier
from elivepatch.service.jobs.jobs import Jobs, NewJob


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(sqlite_url(tmp_path / "db"))
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def notifier(database: sa.Engine) -> Iterator[EventNotifier]:
    found = EventNotifier(database)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def job(database: sa.Engine) -> str:
    new = NewJob(job_key=Digest("a" * 64), build_key=Digest("b" * 64), release="6.1", kernel_build_id="", request={})
    return Jobs(database).submit(new)[0].id


async def follow(notifier: EventNotifier, database: sa.Engine, job: str) -> None:
    """Follow the job until it is woken by the start of following, and then by an event."""
    with notifier.listening(job) as something:
        await asyncio.wait_for(something.wait(), 10)
        something.clear()
        await asyncio.to_thread(Jobs(database).progress, job, Event(stage="compile", message="compiles"))
        await asyncio.wait_for(something.wait(), 10)


def test_nothing_is_asked_while_nobody_follows_and_every_follower_is_woken(
    notifier: EventNotifier, database: sa.Engine, job: str
) -> None:
    asked: list[str] = []
    sa.event.listen(
        database, "before_cursor_execute", lambda *given: asked.append(given[2]) if "events" in given[2] else None
    )
    asyncio.run(follow(notifier, database, job))
    wait_until(lambda: notifier._last is None)
    before = len(asked)
    Jobs(database).progress(job, Event(stage="link", message="links"))
    looked = [statement for statement in asked[before:] if statement.startswith("SELECT")]
    asyncio.run(asyncio.sleep(0.7))
    assert [statement for statement in asked[before:] if statement.startswith("SELECT")] == looked
    asyncio.run(follow(notifier, database, job))


def test_a_notifier_that_sleeps_can_be_stopped(database: sa.Engine) -> None:
    notifier = EventNotifier(database)
    notifier.start()
    notifier.stop()
    notifier._thread.join(timeout=5)
    assert not notifier._thread.is_alive()
