# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps of a job: every ending has a result that says whose fault it was, and doing a step twice is once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deadline import wait_until
from fake_backend import KERNEL, FakeBackend

from elivepatch.model.build import BuildRequest, Result, Status
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.jobs.engine import Stopped
from elivepatch.service.jobs.jobs import Job, Jobs, NewJob
from elivepatch.service.jobs.records import build_key, job_key, keep_request, report_of
from elivepatch.service.jobs.step_process.backend import ProcessBackend
from elivepatch.service.jobs.step_process.pool import StepLimits
from elivepatch.service.jobs.steps import MAX_ATTEMPTS, JobSteps, cancelled
from elivepatch.service.store import Store


@dataclass
class House:
    """A worker without the engine that would call it."""

    jobs: Jobs
    store: Store
    backend: FakeBackend
    steps: JobSteps
    top: Path

    def ask(self, patch: str, **asked: Any) -> str:
        request = BuildRequest(
            release=KERNEL.release,
            series=PatchSeries((SourcePatch("fix.patch", patch.encode()),)),
            **asked,
        )
        key = build_key(self.backend.facts(request.release), request)
        job, _ = self.jobs.submit(
            NewJob(
                job_key=job_key(key, request),
                build_key=key,
                release=request.release,
                kernel_build_id=KERNEL.build_id,
                request=keep_request(request, self.store),
            )
        )
        return job.id

    def run(self, job: str) -> Job:
        if self.steps.begin(job):
            built = self.steps.build(job)
            tried = self.steps.trial(job, built)
            self.steps.publish(job, built, tried)
        ended = self.jobs.get(job)
        assert ended is not None
        return ended

    def left_over(self) -> list[Path]:
        return list((self.top / "work").iterdir())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    engine = open_database(sqlite_url(tmp_path / "db"))
    migrate(engine)
    jobs, store = Jobs(engine), Store.in_directory(tmp_path / "store")
    backend = FakeBackend(tmp_path / "runs.txt")
    steps = JobSteps(jobs=jobs, store=store, backend=backend, directory=tmp_path / "work")
    steps.sweep()
    yield House(jobs, store, backend, steps, tmp_path)
    engine.dispose()


def test_a_livepatch_that_passes_its_trial_is_a_success_with_all_its_files(house: House) -> None:
    job = house.run(house.ask("sleep 0", expectations=(Expectation(command="/proc/meminfo", pattern="X"),)))
    report = report_of(job)
    assert (job.status, job.result, job.reusable) == (Status.DONE, Result.SUCCESS, True)
    assert job.module_digest is not None
    assert job.log_digest is not None
    assert job.console_digest is not None
    assert house.store.get(job.module_digest).startswith(b"\x7fELF")
    assert house.store.get(job.log_digest).startswith(b"compiling in red\n")
    assert set(report) == {
        "id", "status", "result", "kernel", "build_id", "functions", "problem", "notes", "livepatch",
        "module_sha256", "proposal", "seconds", "trial", "explained", "base",
    }  # fmt: skip
    assert report["module_sha256"] == report["livepatch"]["digest"] == job.module_digest
    assert report["trial"]["passed"]
    assert (report["kernel"], report["build_id"]) == (KERNEL.release, KERNEL.build_id)
    assert set(report["seconds"]) == {"build", "trial"}
    assert house.left_over() == []


def test_a_thorough_trial_is_also_one_on_the_debugging_kernel(house: House) -> None:
    job = house.run(house.ask("sleep 0", thorough=True))
    debug = report_of(job)["trial"]["debug"]
    assert (job.result, job.reusable) == (Result.SUCCESS, True)
    assert (debug["kernel"], debug["outcome"], debug["functions"][0]["calls"]) == ("6.1.176-debug", "passed", 3)
    assert job.console_digest is not None
    console = house.store.get(job.console_digest).decode()
    assert console.index("6.1.0-50-cloud-amd64") < console.index("==== 6.1.176-debug ====")
    assert house.run(house.ask("sleep 0")).id != job.id
    assert house.backend.runs("debug") == 1


def test_a_report_of_the_debugging_kernel_keeps_the_livepatch_from_being_served(house: House) -> None:
    job = house.run(house.ask("kasan-report", thorough=True))
    report = report_of(job)
    assert (job.result, job.module_digest, job.reusable) == (Result.FAILURE, None, False)
    assert (report["problem"]["code"], report["trial"]["outcome"]) == ("trial-debug", "failed")


def test_without_a_debugging_kernel_the_trial_stands_and_the_next_request_asks_again(house: House) -> None:
    job = house.run(house.ask("no-debug-kernel", thorough=True))
    trial = report_of(job)["trial"]
    assert (job.result, job.reusable, trial["outcome"]) == (Result.SUCCESS, False, "passed")
    assert (trial["debug"]["outcome"], trial["debug"]["why_not"]) == (None, "the server has none")


def test_a_failed_trial_is_not_repeated_on_the_debugging_kernel(house: House) -> None:
    job = house.run(house.ask("one", thorough=True, expectations=(Expectation(command="x", pattern="never"),)))
    assert (job.result, house.backend.runs("debug")) == (Result.FAILURE, 0)


@pytest.mark.parametrize(
    ("patch", "result", "code", "reusable"),
    [
        ("verdict", Result.FAILURE, "data-changed", True),
        ("compile-error", Result.FAILURE, "compile-error", True),
        ("broken-environment", Result.ERROR, "program-missing", False),
        ("explode", Result.ERROR, "internal-error", False),
        ("disk-full", Result.ERROR, "disk-full", False),
    ],
)
def test_a_build_that_fails_says_whose_fault_it_was(
    house: House, patch: str, result: Result, code: str, reusable: bool
) -> None:
    job = house.run(house.ask(patch))
    report = report_of(job)
    assert (job.result, report["problem"]["code"], job.reusable) == (result, code, reusable)
    assert report["problem"]["advice"]
    assert job.module_digest is None
    assert job.log_digest is not None, "the log is kept above all where something failed"
    assert house.backend.runs("trial") == 0
    assert house.left_over() == []


def test_an_unexpected_exception_keeps_its_words_to_the_server(house: House) -> None:
    job = house.run(house.ask("explode"))
    events = house.jobs.events_after(job.id, 0, limit=1000)
    assert "secret" not in f"{report_of(job)} {events}"
    assert job.log_digest is not None
    assert b"secret" not in house.store.get(job.log_digest)


def test_a_trial_that_fails_is_a_failure_that_may_be_tried_again(house: House) -> None:
    job = house.run(house.ask("sleep 0", expectations=(Expectation(command="/proc/meminfo", pattern="never"),)))
    report = report_of(job)
    assert (job.result, job.reusable, job.module_digest) == (Result.FAILURE, False, None)
    assert report["problem"]["code"] == "trial-expectation"
    assert report["trial"]["passed"] is False
    assert report["livepatch"]["name"] == "livepatch_meminfo"
    assert job.console_digest is not None


def test_no_trial_and_a_check_do_only_what_was_asked(house: House) -> None:
    untried = house.run(house.ask("sleep 0", trial=False))
    checked = house.run(house.ask("sleep 0", trial=False, check_only=True))
    assert (untried.result, checked.result) == (Result.SUCCESS, Result.SUCCESS)
    assert untried.module_digest is not None
    assert (checked.module_digest, report_of(checked)["livepatch"]) == (None, None)
    assert report_of(checked)["functions"]
    assert house.backend.runs("trial") == 0


def test_a_job_that_is_cancelled_while_it_builds_ends_cancelled(house: House) -> None:
    job = house.ask("sleep 30")
    started = time.monotonic()
    worker = threading.Thread(target=house.run, args=(job,))
    worker.start()
    wait_until(lambda: house.backend.runs("build"))
    house.jobs.cancel(job, cancelled())
    house.steps.cancel(job)
    worker.join(timeout=10)
    ended = house.jobs.get(job)
    assert ended is not None
    assert (ended.result, report_of(ended)["problem"]["code"]) == (Result.CANCELLED, "cancelled")
    assert time.monotonic() - started < 5


def test_a_cancellation_before_a_step_keeps_it_from_running(house: House) -> None:
    job = house.ask("sleep 0")
    assert house.steps.begin(job)
    house.jobs.cancel(job, cancelled())
    built = house.steps.build(job)
    house.steps.publish(job, built, house.steps.trial(job, built))
    ended = house.jobs.get(job)
    assert ended is not None
    assert ended.result is Result.CANCELLED
    assert house.backend.runs("build") == 0


def test_a_stop_leaves_the_job_running_and_counts_no_attempt(house: House) -> None:
    job = house.ask("sleep 30")
    outcome: list[object] = []

    def run() -> None:
        try:
            house.run(job)
        except Stopped as stopped:
            outcome.append(stopped)

    worker = threading.Thread(target=run)
    worker.start()
    wait_until(lambda: house.backend.runs("build"))
    house.steps.stop()
    worker.join(timeout=10)
    assert len(outcome) == 1
    left = house.jobs.get(job)
    assert left is not None
    assert (left.status, left.attempts) == (Status.RUNNING, 0)
    assert house.left_over() == []
    with pytest.raises(Stopped):
        house.steps.begin(job)


def test_a_job_under_which_the_server_dies_again_and_again_is_given_up(house: House) -> None:
    job = house.ask("sleep 0")
    for _ in range(MAX_ATTEMPTS):
        assert house.steps.begin(job)
    assert not house.steps.begin(job)
    ended = house.jobs.get(job)
    assert ended is not None
    assert (ended.result, report_of(ended)["problem"]["code"]) == (Result.ERROR, "job-crashes-server")


def test_every_step_may_be_done_twice(house: House) -> None:
    job = house.ask("sleep 0")
    house.steps.begin(job)
    first, second = house.steps.build(job), house.steps.build(job)
    assert first == second
    house.steps.trial(job, first)
    tried = house.steps.trial(job, second)
    house.steps.publish(job, first, tried)
    ended = house.jobs.get(job)
    house.steps.publish(job, second, tried)
    assert house.jobs.get(job) == ended


def test_a_module_that_was_changed_between_build_and_trial_is_not_tried(house: House) -> None:
    job = house.ask("sleep 0")
    house.steps.begin(job)
    built = house.steps.build(job)
    (house.top / "store" / "sha256" / built["module"][:2] / built["module"]).write_bytes(b"another")
    house.steps.publish(job, built, house.steps.trial(job, built))
    ended = house.jobs.get(job)
    assert ended is not None
    assert (ended.result, report_of(ended)["problem"]["code"]) == (Result.ERROR, "blob-damaged")
    assert ended.module_digest is None


def test_what_an_earlier_process_left_in_the_work_directory_is_swept(house: House) -> None:
    rest = house.top / "work" / "0123456789abcdef" / "build"
    rest.mkdir(parents=True)
    (rest / "vmlinux").write_bytes(b"x")
    house.steps.sweep()
    assert house.left_over() == []


def test_a_flood_of_progress_is_thinned(house: House) -> None:
    job = house.run(house.ask("sleep 0.5"))
    progress = [event for event in house.jobs.events_after(job.id, 0, limit=1000) if event.kind == "progress"]
    assert 5 <= len(progress) <= 12


def test_a_log_without_end_is_kept_in_part(house: House) -> None:
    job = house.run(house.ask("log 20000000"))
    assert job.log_digest is not None
    log = house.store.get(job.log_digest)
    assert len(log) < 11_000_000
    assert b"bytes left out" in log


def test_a_step_that_takes_longer_than_it_may_is_ended(house: House) -> None:
    hurried = JobSteps(
        jobs=house.jobs, store=house.store, backend=house.backend, directory=house.top / "work", step_limit_s=0.3
    )
    job = house.ask("sleep 30")
    assert hurried.begin(job)
    built = hurried.build(job)
    hurried.publish(job, built, hurried.trial(job, built))
    ended = house.jobs.get(job)
    assert ended is not None
    assert (ended.result, report_of(ended)["problem"]["code"]) == (Result.ERROR, "job-overdue")
    assert ended.log_digest is not None


def test_a_job_that_others_took_over_is_abandoned_and_left_as_it_is(house: House) -> None:
    job = house.ask("sleep 30")
    left: list[type[BaseException]] = []

    def run() -> None:
        try:
            house.run(job)
        except Stopped as stopped:
            left.append(type(stopped))

    worker = threading.Thread(target=run)
    worker.start()
    wait_until(lambda: house.backend.runs("build"))
    house.steps.abandon()
    worker.join(timeout=10)
    stands = house.jobs.get(job)
    assert stands is not None
    assert (left, stands.status, stands.attempts) == ([Stopped], Status.RUNNING, 1)
    assert house.steps.begin(job), "the worker itself goes on"


def test_a_step_that_lets_no_other_thread_run_is_ended_when_its_time_is_over(house: House) -> None:
    backend = ProcessBackend(house.backend, StepLimits(grace_s=0.3))
    steps = JobSteps(jobs=house.jobs, store=house.store, backend=backend, directory=house.top / "work", step_limit_s=4)
    steps.sweep()
    try:
        job = house.ask("spin")
        assert steps.begin(job)
        started = time.monotonic()
        built = steps.build(job)
        assert time.monotonic() - started < 20
        steps.publish(job, built, steps.trial(job, built))
        ended = house.jobs.get(job)
        assert ended is not None
        assert (ended.result, report_of(ended)["problem"]["code"]) == (Result.ERROR, "job-overdue")
        assert house.left_over() == []
        other = house.ask("sleep 0")
        assert steps.begin(other)
        assert steps.build(other)["module"] is not None
    finally:
        backend.close()


def test_a_job_whose_step_crashes_ends_as_an_error_that_may_be_tried_again(house: House) -> None:
    backend = ProcessBackend(house.backend)
    steps = JobSteps(jobs=house.jobs, store=house.store, backend=backend, directory=house.top / "work")
    steps.sweep()
    try:
        job = house.ask("segfault")
        assert steps.begin(job)
        built = steps.build(job)
        steps.publish(job, built, steps.trial(job, built))
    finally:
        backend.close()
    ended = house.jobs.get(job)
    assert ended is not None
    assert (ended.result, ended.reusable) == (Result.ERROR, False)
    assert report_of(ended)["problem"]["code"] == "step-crashed"
    assert ended.log_digest is not None, "the output up to the crash is kept"
