# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps of a job: build, trial, publish. Each can be repeated after a crash with the same result.

A step works in a directory of its own that is removed afterwards. Files that stay go into the store under their digest
before anything refers to them, so a job that is cut off leaves nothing that could be served.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from elivepatch.model.build import BuildOutcome, RequestReference, Result
from elivepatch.model.errors import Problem
from elivepatch.model.kernel import Digest
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Progress
from elivepatch.model.trial import DebugTrial, TrialOutcome
from elivepatch.process import Cancellation
from elivepatch.service.db.causes import problem_of
from elivepatch.service.errors import CANCELLED, CRASHED, INTERNAL, OVERDUE
from elivepatch.service.jobs.backend import BuildBackend
from elivepatch.service.jobs.engine import Json, Stopped
from elivepatch.service.jobs.jobs import Job, Jobs, Outcome
from elivepatch.service.jobs.records import livepatch_from, outcome_record, proof_problem, request_from, result_of
from elivepatch.service.jobs.step_process.progress import ProgressFilter
from elivepatch.service.jobs.trials.earlier import find_earlier
from elivepatch.service.jobs.trials.kept import replay_command
from elivepatch.service.printable_log import readable
from elivepatch.service.store import Store

MAX_ATTEMPTS = 5
"""Attempts of a job whose worker dies each time; more than one, because a machine may die for other reasons."""

_LOG_BYTES = 10 * 1024 * 1024

STEP_LIMIT_S = 3600.0
"""Time that a build, or a trial, may take, in seconds."""

# A kernel that is built from its source takes hours.
_BASE_LIMIT_S = 8 * 3600.0

_Step = Callable[[Job, Path, Path, Cancellation], Json]

# The answer of a step that was not done.
_NOT_BUILT: Json = outcome_record(BuildOutcome()) | {"module": None, "log": None}
_NOT_TRIED: Json = {"problem": None, "trial": None, "console": None, "seconds": {}}
_NOT_MADE: Json = {"problem": None, "base": None, "log": None, "seconds": {}}
# Jobs of the first version had no route.
_OLD_ROUTE = "old"

_logger = structlog.get_logger()


def cancelled() -> Outcome:
    """Return the outcome of a cancelled job."""
    return Outcome(result=Result.CANCELLED, reusable=False, report={"problem": CANCELLED.as_dict()})


def failed(problem: Problem) -> Outcome:
    """Return the outcome of a job that ends with `problem`, an error of ours."""
    return Outcome(result=Result.ERROR, reusable=False, report={"problem": problem.as_dict()})


class _Running:
    """A step that is running, and the reason to end it early."""

    def __init__(self) -> None:
        self.cancellation = Cancellation.new()
        self.lost = threading.Event()
        self.overdue = threading.Event()

    def run_out(self) -> None:
        """End the step because its time has run out."""
        self.overdue.set()
        self.cancellation.event.set()


class JobSteps:
    """The steps of jobs (`engine.Steps`), and the ways to end them early."""

    def __init__(
        self, *, jobs: Jobs, store: Store, backend: BuildBackend, directory: Path, step_limit_s: float = STEP_LIMIT_S
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._backend = backend
        self._directory = directory
        self._step_limit_s = step_limit_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self.on_new_kernel: Callable[[], None] = lambda: None

    def sweep(self) -> None:
        """Remove the files that an earlier process left behind, and create the parent of the work directories."""
        self._backend.sweep()
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def cancel(self, job: str) -> None:
        """End the running step of a job whose cancellation is in the database already."""
        with self._lock:
            if job in self._running:
                self._running[job].cancellation.event.set()

    def abandon(self) -> None:
        """End all running steps without an answer: other workers have taken the jobs over."""
        with self._lock:
            for running in self._running.values():
                running.lost.set()
                running.cancellation.event.set()

    def stop(self) -> None:
        """End all running steps without an answer: the next start takes the jobs up again."""
        self._stopping.set()
        with self._lock:
            for running in self._running.values():
                running.cancellation.event.set()

    def begin(self, job: str) -> str:
        """Count an attempt and return the job's route.

        The text is empty for a job that is done, or that has used up its attempts and is ended here.
        """
        if self._stopping.is_set():
            raise Stopped
        begun = self._jobs.begin(job)
        if begun is None:
            return ""
        if begun.attempts > MAX_ATTEMPTS:
            _logger.error("job.given-up", job=job, attempts=begun.attempts)
            self._jobs.finish(job, failed(CRASHED), cancelled())
            return ""
        _logger.info("job.begun", job=job, attempt=begun.attempts, release=begun.release)
        return begun.route or _OLD_ROUTE

    def build(self, job: str) -> Json:
        """Build a job's module, put it and the log into the store, and return the outcome as JSON."""
        return _NOT_BUILT | self._guarded(job, "log", self._build)

    def trial(self, job: str, built: Json) -> Json:
        """Try the module, if there is one and the request asks for a trial, and return the report as JSON."""
        if built["module"] is None or built["problem"] is not None:
            return _NOT_TRIED

        def work(kept: Job, directory: Path, console: Path, cancellation: Cancellation) -> Json:
            return self._trial(kept, built, directory, console, cancellation)

        return _NOT_TRIED | self._guarded(job, "console", work)

    def publish(self, job: str, built: Json, tried: Json) -> None:
        """End the job in one transaction; its module is served from then on."""
        outcome = _outcome(built, tried, built["problem"] or tried["problem"])
        kept = self._jobs.get(job)
        if kept is not None and (unproved := proof_problem(kept, outcome)) is not None:
            # A success whose module could never be handed out would be the answer to each equal request.
            outcome = _outcome(built, tried, unproved.as_dict())
        ended = self._jobs.finish(job, outcome, cancelled())
        _logger.info("job.done", job=job, result=ended.result if ended is not None else None)

    def make_base(self, job: str) -> Json:
        """Make the base that a job asks for, put the log into the store, and return the outcome as JSON."""
        return _NOT_MADE | self._guarded(job, "log", self._make_base, limit_s=max(_BASE_LIMIT_S, self._step_limit_s))

    def publish_base(self, job: str, made: Json) -> None:
        """End the job; its kernel is offered already."""
        problem = made["problem"]
        outcome = Outcome(
            result=result_of(problem),
            # The base may be removed, and what was missing may come: the next request looks again.
            reusable=False,
            report={"problem": problem, "base": made["base"], "seconds": made["seconds"]},
            log_digest=made["log"],
        )
        if problem is None:
            self.on_new_kernel()
        ended = self._jobs.finish(job, outcome, cancelled())
        _logger.info("job.done", job=job, result=ended.result if ended is not None else None)

    def _make_base(self, job: Job, directory: Path, log: Path, cancellation: Cancellation) -> Json:
        started = time.monotonic()
        asked = KernelRequest.from_json(job.request["asked"])
        for name, pieces in (("files", asked.files), ("source", asked.source)):
            if pieces:
                with (directory / f"{name}.tar.gz").open("wb") as archive:
                    archive.writelines(self._store.get(piece) for piece in pieces)
        kernel = self._backend.make_base(
            asked,
            pushed=directory,
            log=log,
            progress=self._progress(job.id),
            cancellation=cancellation,
        )
        return {"problem": None, "base": kernel.as_dict(), "seconds": {"base": round(time.monotonic() - started, 3)}}

    def _build(self, job: Job, directory: Path, log: Path, cancellation: Cancellation) -> Json:
        outcome = self._backend.build(
            request_from(job.request, self._store),
            build_key=job.build_key,
            work_dir=directory,
            log=log,
            progress=self._progress(job.id),
            cancellation=cancellation,
            tenant=job.tenant,
        )
        module: Digest | None = None
        if outcome.module is not None and outcome.problem is None:
            module = self._store.put(outcome.module.read_bytes())
            if outcome.livepatch is None or outcome.livepatch.digest != module:
                message = "the module's bytes are not those of the livepatch"
                raise ValueError(message)
        return outcome_record(outcome) | {"module": module}

    def _trial(self, job: Job, built: Json, directory: Path, console: Path, cancellation: Cancellation) -> Json:
        # Without the bytes of the patches: the trial needs the module only.
        request = RequestReference.from_json(job.request)
        if not request.trial:
            return _NOT_TRIED
        module = directory / "livepatch.ko"
        module.write_bytes(self._store.get(Digest(built["module"])))
        work_dir = directory / "guest"
        work_dir.mkdir()
        found = find_earlier(job, self._backend.facts(job.release), self._jobs, self._store)
        started = time.monotonic()
        report = self._backend.trial(
            livepatch_from(built["livepatch"]),
            module,
            request.expectations,
            work_dir=work_dir,
            console=console,
            progress=self._progress(job.id),
            cancellation=cancellation,
            earlier=found.in_directory(directory),
        )
        report = replace(report, over_earlier=report.over_earlier or found.not_tried())
        if request.thorough and report.outcome in {TrialOutcome.PASSED, TrialOutcome.PARTLY}:
            debug = self._debug_trial(job, built, directory, console, cancellation)
            report = replace(report, debug=debug, problems=(*report.problems, *filter(None, [debug.problem])))
        return {
            "problem": report.problem.as_dict() if report.problem is not None else None,
            "trial": report.as_dict()
            | {"problems": [problem.as_dict() for problem in report.problems], "replay": replay_command(job.id)},
            "seconds": {"trial": round(time.monotonic() - started, 3)},
        }

    def _debug_trial(
        self, job: Job, built: Json, directory: Path, console: Path, cancellation: Cancellation
    ) -> DebugTrial:
        """Try the series on the debugging kernel too; its console follows that of the trial in the same file."""
        work_dir, printed = directory / "debug", directory / "debug-console"
        work_dir.mkdir()
        debug = self._backend.debug_trial(
            request_from(job.request, self._store),
            livepatch_from(built["livepatch"]).functions,
            work_dir=work_dir,
            console=printed,
            progress=self._progress(job.id),
            cancellation=cancellation,
            tenant=job.tenant,
        )
        if printed.is_file():
            with console.open("ab") as whole, printed.open("rb") as part:
                whole.write(f"\n==== {debug.kernel} ====\n".encode())
                shutil.copyfileobj(part, whole)
        return debug

    def _guarded(self, job: str, kept_as: str, work: _Step, *, limit_s: float | None = None) -> Json:
        """Do one step in a fresh directory. Every failure becomes its answer; a stop leaves it without one.

        The answer holds under `kept_as` the digest of the output of the step's tools.
        """
        top = self._directory / job
        with self._tracked(job, limit_s or self._step_limit_s) as running:
            try:
                answer = self._answered(job, lambda: self._in_directory(job, top, kept_as, work, running))
            finally:
                shutil.rmtree(top, ignore_errors=True)
            self._stop_if_asked(job)
            return answer

    def _in_directory(self, job: str, top: Path, kept_as: str, work: _Step, running: _Running) -> Json:
        shutil.rmtree(top, ignore_errors=True)
        directory = top / "work"
        directory.mkdir(mode=0o700, parents=True)
        printed = top / kept_as
        kept = self._jobs.get(job)
        if kept is None or kept.cancel_requested:
            return _unanswered(CANCELLED)
        answer = self._answered(job, lambda: work(kept, directory, printed, running.cancellation))
        if running.overdue.is_set():
            answer = _unanswered(OVERDUE)
        # First, to make room for the log that explains a full disk.
        shutil.rmtree(directory, ignore_errors=True)
        if printed.is_file():
            answer |= {kept_as: self._store.put(readable(printed, limit_bytes=_LOG_BYTES))}
        return answer

    def _answered(self, job: str, work: Callable[[], Json]) -> Json:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - the one edge at which any exception becomes a job's answer
            self._stop_if_asked(job)
            return _unanswered(self._problem(job, error))

    @contextmanager
    def _tracked(self, job: str, limit_s: float) -> Iterator[_Running]:
        running = _Running()
        with self._lock:
            self._running[job] = running
        if self._stopping.is_set():
            running.cancellation.event.set()
        alarm = threading.Timer(limit_s, running.run_out)
        alarm.daemon = True
        alarm.start()
        try:
            yield running
        finally:
            alarm.cancel()
            with self._lock:
                # A job that was lost and came back here has its own entry by now.
                if self._running.get(job) is running:
                    del self._running[job]

    def _stop_if_asked(self, job: str) -> None:
        with self._lock:
            running = self._running.get(job)
        if running is not None and running.lost.is_set():
            raise Stopped
        if self._stopping.is_set():
            self._jobs.interrupt(job)
            raise Stopped

    def _problem(self, job: str, error: Exception) -> Problem:
        """Return the problem that the report shows for `error`; details of an unexpected exception go to the log."""
        problem = problem_of(error)
        if problem is INTERNAL:
            _logger.error("job.unexpected-exception", job=job, exc_info=error)
        else:
            _logger.warning("job.problem", job=job, code=problem.code, message=problem.message)
        return problem

    def _progress(self, job: str) -> Progress:
        """Return the function that a backend reports its progress to."""
        return ProgressFilter(lambda event: self._jobs.progress(job, event))


def _outcome(built: Json, tried: Json, problem: Json | None) -> Outcome:
    result = result_of(problem)
    return Outcome(
        result=result,
        reusable=_lasting(result, built, tried),
        report={
            "problem": problem,
            "livepatch": built["livepatch"],
            "functions": built["functions"],
            "notes": built["notes"],
            "seconds": built["seconds"] | tried["seconds"],
            "trial": tried["trial"],
            "proposal": built["proposal"],
            "explained": built.get("explained", []),
        },
        module_digest=built["module"] if problem is None else None,
        log_digest=built["log"],
        console_digest=tried["console"],
    )


def _lasting(result: Result, built: Json, tried: Json) -> bool:
    """Return whether the same request would end like this again."""
    # A trial may end in another way the next time, a compiler does not.
    if result is not Result.SUCCESS:
        return result is Result.FAILURE and built["problem"] is not None
    debug = (tried["trial"] or {}).get("debug")
    # A debugging kernel may be made meanwhile.
    return debug is None or debug["outcome"] in {"passed", "partly"}


def _unanswered(problem: Problem) -> Json:
    return {"problem": problem.as_dict()}
