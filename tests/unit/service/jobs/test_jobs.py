# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs: in any order of moves, a job ends once, and a request has one answer at a time."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from elivepatch.model.build import Result, Status
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.db.tables import events
from elivepatch.service.jobs.jobs import Job, Jobs, NewJob, Outcome

CANCELLED = Outcome(result=Result.CANCELLED, reusable=False, report={})
OUTCOMES = {
    "success": Outcome(result=Result.SUCCESS, reusable=True, report={"n": 1}, module_digest=Digest("ab" * 32)),
    "failure": Outcome(result=Result.FAILURE, reusable=True, report={"n": 2}),
    "flaky": Outcome(result=Result.FAILURE, reusable=False, report={"n": 3}),
    "error": Outcome(result=Result.ERROR, reusable=False, report={"n": 4}),
}


def asked(key: str = "aa") -> NewJob:
    return NewJob(
        job_key=Digest(key * 32),
        build_key=Digest("bb" * 32),
        release="6.1.0",
        kernel_build_id="cc",
        request={"patches": []},
    )


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    engine = open_database(sqlite_url(tmp_path / "db"))
    migrate(engine)
    yield Jobs(engine)
    engine.dispose()


def kinds(jobs: Jobs, job: Job) -> list[str]:
    return [event.kind for event in jobs.events_after(job.id, 0, limit=1000)]


def test_a_job_goes_from_queued_over_running_to_done(jobs: Jobs) -> None:
    job, new = jobs.submit(asked())
    assert (new, job.status, job.result, job.attempts) == (True, Status.QUEUED, None, 0)
    running = jobs.begin(job.id)
    assert running is not None
    assert (running.status, running.attempts) == (Status.RUNNING, 1)
    done = jobs.finish(job.id, OUTCOMES["success"], CANCELLED)
    assert done is not None
    assert (done.status, done.result, done.module_digest) == (Status.DONE, Result.SUCCESS, "ab" * 32)
    assert running.started_at is not None
    assert done.done_at is not None
    assert done.created_at <= running.started_at <= done.done_at
    assert kinds(jobs, job) == ["state", "state", "done"]


def test_an_event_keeps_its_number_when_events_before_it_are_deleted(jobs: Jobs) -> None:
    job, _ = jobs.submit(asked())
    for number in range(3):
        jobs.progress(job.id, Event(stage="link", message=str(number)))
    jobs.finish(job.id, OUTCOMES["success"], CANCELLED)
    with jobs._database.begin() as connection:
        connection.execute(sa.delete(events).where(events.c.kind == "progress"))
    assert [(event.id, event.kind) for event in jobs.events_after(job.id, 0, limit=9)] == [(1, "state"), (5, "done")]
    assert [event.id for event in jobs.events_after(job.id, 3, limit=9)] == [5]


@pytest.mark.parametrize(
    ("ending", "answers"), [("success", True), ("failure", True), ("flaky", False), ("error", False)]
)
def test_an_equal_request_is_answered_by_a_job_that_may_answer_it(jobs: Jobs, ending: str, answers: bool) -> None:
    job, _ = jobs.submit(asked())
    assert jobs.submit(asked())[0].id == job.id
    jobs.begin(job.id)
    assert jobs.submit(asked())[0].id == job.id
    jobs.finish(job.id, OUTCOMES[ending], CANCELLED)
    again, new = jobs.submit(asked())
    assert (again.id == job.id, new) == (answers, not answers)


def test_another_request_is_another_job(jobs: Jobs) -> None:
    assert jobs.submit(asked("aa"))[0].id != jobs.submit(asked("ab"))[0].id


def test_a_job_ends_once(jobs: Jobs) -> None:
    job, _ = jobs.submit(asked())
    jobs.begin(job.id)
    jobs.finish(job.id, OUTCOMES["failure"], CANCELLED)
    again = jobs.finish(job.id, OUTCOMES["success"], CANCELLED)
    assert again is not None
    assert (again.result, again.module_digest) == (Result.FAILURE, None)
    assert jobs.begin(job.id) is None
    assert kinds(jobs, job).count("done") == 1


def test_a_queued_job_that_is_cancelled_is_done_at_once(jobs: Jobs) -> None:
    job, _ = jobs.submit(asked())
    ended = jobs.cancel(job.id, CANCELLED)
    assert ended is not None
    assert (ended.status, ended.result) == (Status.DONE, Result.CANCELLED)
    assert jobs.begin(job.id) is None
    assert jobs.submit(asked())[1]


def test_a_running_job_that_is_cancelled_ends_cancelled_whatever_it_made(jobs: Jobs) -> None:
    job, _ = jobs.submit(asked())
    jobs.begin(job.id)
    asked_for = jobs.cancel(job.id, CANCELLED)
    assert asked_for is not None
    assert asked_for.status is Status.RUNNING
    ended = jobs.finish(job.id, OUTCOMES["success"], CANCELLED)
    assert ended is not None
    assert (ended.result, ended.module_digest) == (Result.CANCELLED, None)


def test_cancelling_a_done_job_changes_nothing(jobs: Jobs) -> None:
    job, _ = jobs.submit(asked())
    jobs.begin(job.id)
    done = jobs.finish(job.id, OUTCOMES["success"], CANCELLED)
    assert jobs.cancel(job.id, CANCELLED) == done


def test_an_interruption_is_no_attempt_of_the_job(jobs: Jobs) -> None:
    job, _ = jobs.submit(asked())
    for _ in range(5):
        jobs.begin(job.id)
        jobs.interrupt(job.id)
    begun = jobs.begin(job.id)
    assert begun is not None
    assert begun.attempts == 1


def test_a_forgotten_answer_is_made_anew(jobs: Jobs) -> None:
    job, _ = jobs.submit(asked())
    jobs.finish(job.id, OUTCOMES["success"], CANCELLED)
    jobs.forget(job.id)
    assert jobs.submit(asked())[1]


def test_pages_are_newest_first_and_leave_nothing_out(jobs: Jobs) -> None:
    ids = [jobs.submit(asked(f"{number:02x}"))[0].id for number in range(7)]
    seen: list[str] = []
    before = None
    while page := jobs.page(limit=3, before=before):
        seen += [job.id for job in page]
        before = page[-1].number
    assert seen == ids[::-1]


def test_events_are_read_on_from_where_one_was(jobs: Jobs) -> None:
    job, _ = jobs.submit(asked())
    for step in range(5):
        jobs.progress(job.id, Event(stage="s" * 100, message="m" * 10_000 + str(step), fraction=0.5))
    events = jobs.events_after(job.id, 0, limit=100)
    assert [event.id for event in events] == sorted({event.id for event in events})
    assert jobs.events_after(job.id, events[2].id, limit=2) == events[3:5]
    assert max(len(str(event.data)) for event in events) < 1000


def test_what_does_not_exist_is_none(jobs: Jobs) -> None:
    unknown = "0" * 16
    assert jobs.get(unknown) is None
    assert jobs.begin(unknown) is None
    assert jobs.cancel(unknown, CANCELLED) is None
    assert jobs.finish(unknown, OUTCOMES["error"], CANCELLED) is None


def test_many_threads_that_ask_the_same_get_one_job(jobs: Jobs) -> None:
    answers: list[tuple[str, bool]] = []

    def ask() -> None:
        job, new = jobs.submit(asked())
        answers.append((job.id, new))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(answers) == 12
    assert len({identifier for identifier, _ in answers}) == 1
    assert [new for _, new in answers].count(True) == 1


class JobMachine(RuleBasedStateMachine):
    """Any order of moves, compared with a model of three lines per move."""

    made = Bundle("made")

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.engine = open_database(sqlite_url(Path(self.directory.name) / "db"))
        migrate(self.engine)
        self.jobs = Jobs(self.engine)
        self.key: dict[str, str] = {}
        self.state: dict[str, tuple[Status, Result | None]] = {}
        self.wanted: dict[str, bool] = {}
        self.live: dict[str, str] = {}
        self.attempts: dict[str, int] = {}

    @rule(target=made, key=st.sampled_from(["aa", "ab"]))
    def submit(self, key: str) -> str:
        job, new = self.jobs.submit(asked(key))
        assert new == (key not in self.live)
        if new:
            self.key[job.id], self.live[key] = key, job.id
            self.state[job.id], self.wanted[job.id], self.attempts[job.id] = (Status.QUEUED, None), False, 0
        assert self.live[key] == job.id
        return job.id

    @rule(job=made)
    def begin(self, job: str) -> None:
        begun = self.jobs.begin(job)
        assert (begun is None) == (self.state[job][0] is Status.DONE)
        if begun is not None:
            self.state[job] = (Status.RUNNING, None)
            self.attempts[job] += 1

    @rule(job=made)
    def interrupt(self, job: str) -> None:
        # The worker does so once for each begin.
        if self.state[job][0] is Status.RUNNING and self.attempts[job] > 0:
            self.jobs.interrupt(job)
            self.attempts[job] -= 1

    @rule(job=made)
    def cancel(self, job: str) -> None:
        self.jobs.cancel(job, CANCELLED)
        if self.state[job][0] is Status.QUEUED:
            self._end(job, CANCELLED)
        elif self.state[job][0] is Status.RUNNING:
            self.wanted[job] = True

    @rule(job=made, ending=st.sampled_from(sorted(OUTCOMES)))
    def finish(self, job: str, ending: str) -> None:
        self.jobs.finish(job, OUTCOMES[ending], CANCELLED)
        if self.state[job][0] is not Status.DONE:
            self._end(job, CANCELLED if self.wanted[job] else OUTCOMES[ending])

    @rule(job=consumes(made))
    def forget(self, job: str) -> None:
        # Only what is done is ever forgotten: its file was asked for.
        if self.state[job][0] is Status.DONE:
            self.jobs.forget(job)
            if self.live.get(self.key[job]) == job:
                del self.live[self.key[job]]

    def _end(self, job: str, outcome: Outcome) -> None:
        self.state[job] = (Status.DONE, outcome.result)
        if not outcome.reusable:
            del self.live[self.key[job]]

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        for identifier, (status, result) in getattr(self, "state", {}).items():
            job = self.jobs.get(identifier)
            assert job is not None
            assert (job.status, job.result, job.attempts) == (status, result, self.attempts[identifier])
            assert kinds(self.jobs, job).count("done") == (status is Status.DONE)

    def teardown(self) -> None:
        self.engine.dispose()
        self.directory.cleanup()


JobMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestJobsInAnyOrder = JobMachine.TestCase
