# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans of the statements that requests wait for: each finds its rows by an index, none reads a whole table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from query_plans import recorded

from elivepatch.model.build import Result
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.jobs.jobs import Jobs, NewJob, Outcome

OUTCOME = Outcome(result=Result.SUCCESS, reusable=True, report={})
NEW = NewJob(
    job_key=Digest("aa" * 32),
    build_key=Digest("bb" * 32),
    release="6.1.0",
    kernel_build_id="cc",
    request={"patches": []},
)
OTHER = replace(NEW, job_key=Digest("cc" * 32))
CALLS: dict[str, Callable[[Jobs, str], object]] = {
    "submit": lambda jobs, _: jobs.submit(OTHER),
    "answering": lambda jobs, _: jobs.answering(NEW.job_key),
    "get": lambda jobs, job: jobs.get(job),
    "unfinished": lambda jobs, _: jobs.unfinished(),
    "waiting": lambda jobs, _: jobs.waiting("default"),
    "to_cancel": lambda jobs, _: jobs.to_cancel(),
    "begin": lambda jobs, job: jobs.begin(job),
    "progress": lambda jobs, job: jobs.progress(job, Event(stage="link", message="links")),
    "events_after": lambda jobs, job: jobs.events_after(job, 3, limit=10),
    "page": lambda jobs, _: jobs.page(limit=50, before=7),
    "page of a tenant": lambda jobs, _: jobs.page(limit=50, tenant="default"),
    "page of a kernel": lambda jobs, _: jobs.page(limit=50, release="6.1.0"),
    "cancel": lambda jobs, job: jobs.cancel(job, OUTCOME),
    "finish": lambda jobs, job: jobs.finish(job, OUTCOME, OUTCOME),
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(sqlite_url(tmp_path / "db"))
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("call", CALLS)
def test_no_statement_about_jobs_reads_the_whole_table(database: sa.Engine, call: str) -> None:
    jobs = Jobs(database)
    job, _ = jobs.submit(NEW)
    with recorded(database) as recorder:
        CALLS[call](jobs, job.id)
    plans = recorder.plans()
    assert plans
    for plan in plans:
        assert not re.search(r"SCAN (builds|events)(?! USING (COVERING )?INDEX)", plan), plan
        assert "TEMP B-TREE" not in plan.replace(
            "TEMP B-TREE FOR ORDER BY", "" if call == "unfinished" else "B-TREE"
        ), plan


def test_the_partial_indexes_are_used(database: sa.Engine) -> None:
    jobs = Jobs(database)
    with recorded(database) as recorder:
        jobs.answering(NEW.job_key)
        jobs.waiting("default")
        jobs.unfinished()
    answering, waiting, unfinished = recorder.plans()
    assert "uq_builds_live_job_key" in answering
    assert "ix_builds_unfinished" in waiting
    assert "ix_builds_unfinished" in unfinished
