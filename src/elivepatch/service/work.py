# SPDX-License-Identifier: GPL-2.0-or-later
"""What the worker does with a job: build, try, publish, each so that doing it again after a crash is the same.

A job works in a directory of its own that is gone afterwards. What is to stay goes into the store, under its digest,
before anything points to it; so a job that was cut off leaves nothing that could be served.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from elivepatch.model.build import BuildOutcome, Result
from elivepatch.model.errors import Problem
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event, Progress
from elivepatch.process import Cancellation
from elivepatch.service.engine import Json, Stopped
from elivepatch.service.faults import CANCELLED, CRASHED, INTERNAL, problem_of
from elivepatch.service.jobs import Job, Jobs, Outcome
from elivepatch.service.records import livepatch_from, outcome_record, request_from, result_of
from elivepatch.service.store import Store
from elivepatch.service.textlog import readable
from elivepatch.service.workshop import Workshop
from elivepatch.trust.envelope import sign_livepatch
from elivepatch.trust.keys import ServerKey
from elivepatch.trust.statement import Statement

MAX_ATTEMPTS = 3
"""How often a job is taken up again after the server died under it."""

_EVENTS_PER_ATTEMPT = 5000
_EVENT_INTERVAL_S = 0.1
_LOG_BYTES = 10 * 1024 * 1024

_Step = Callable[[Job, Path, Path, Cancellation], Json]

# What a step's answer holds where the step did not come that far.
_NOT_BUILT: Json = outcome_record(BuildOutcome()) | {"module": None, "log": None}
_NOT_TRIED: Json = {"problem": None, "trial": None, "console": None, "seconds": {}}

_logger = structlog.get_logger()


def cancelled() -> Outcome:
    """Return how a cancelled job ends."""
    return Outcome(result=Result.CANCELLED, reusable=False, report={"problem": CANCELLED.as_dict()})


def failed(problem: Problem) -> Outcome:
    """Return how a job ends that could not be worked on."""
    return Outcome(result=Result.ERROR, reusable=False, report={"problem": problem.as_dict()})


class Work:
    """The steps of a job (`engine.Steps`), and the two ways to end them early."""

    def __init__(self, *, jobs: Jobs, store: Store, workshop: Workshop, key: ServerKey, directory: Path) -> None:
        self._jobs = jobs
        self._store = store
        self._workshop = workshop
        self._key = key
        self._directory = directory
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: dict[str, Cancellation] = {}

    def sweep(self) -> None:
        """Remove what an earlier process left behind, and make the directory of the work directories."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def cancel(self, job: str) -> None:
        """End the programs that this process runs for a job whose cancellation is noted in the database."""
        with self._lock:
            if job in self._running:
                self._running[job].event.set()

    def stop(self) -> None:
        """End all programs; the jobs are left as they are, to be taken up at the next start."""
        self._stopping.set()
        with self._lock:
            for cancellation in self._running.values():
                cancellation.event.set()

    def begin(self, job: str) -> bool:
        """Count an attempt; False for a job that is done, or that has had all its attempts and is ended here."""
        if self._stopping.is_set():
            raise Stopped
        begun = self._jobs.begin(job)
        if begun is None:
            return False
        if begun.attempts > MAX_ATTEMPTS:
            _logger.error("job.given-up", job=job, attempts=begun.attempts)
            self._jobs.finish(job, failed(CRASHED), cancelled())
            return False
        _logger.info("job.begun", job=job, attempt=begun.attempts, release=begun.release)
        return True

    def build(self, job: str) -> Json:
        """Build a job's module, put it and the log into the store, and return the outcome as JSON."""
        return _NOT_BUILT | self._guarded(job, "log", self._build)

    def trial(self, job: str, built: Json) -> Json:
        """Try the module where there is one and a trial was asked for, and return what was seen as JSON."""
        if built["module"] is None or built["problem"] is not None:
            return _NOT_TRIED

        def work(kept: Job, directory: Path, console: Path, cancellation: Cancellation) -> Json:
            return self._trial(kept, built, directory, console, cancellation)

        return _NOT_TRIED | self._guarded(job, "console", work)

    def publish(self, job: str, built: Json, tried: Json) -> None:
        """End the job in one transaction; from then on its module is served."""
        problem = built["problem"] or tried["problem"]
        result = result_of(problem)
        served = built["module"] if problem is None else None
        outcome = Outcome(
            result=result,
            # What a VM saw may differ the next time, what a compiler said does not.
            reusable=result is Result.SUCCESS or (result is Result.FAILURE and built["problem"] is not None),
            report={
                "problem": problem,
                "livepatch": built["livepatch"],
                "functions": built["functions"],
                "notes": built["notes"],
                "seconds": built["seconds"] | tried["seconds"],
                "trial": tried["trial"],
                "signature": self._sign(job, built["livepatch"]) if served is not None else None,
            },
            module_digest=served,
            log_digest=built["log"],
            console_digest=tried["console"],
        )
        ended = self._jobs.finish(job, outcome, cancelled())
        _logger.info("job.done", job=job, result=ended.result if ended is not None else None)

    def _sign(self, job: str, livepatch: Json) -> Digest | None:
        """Put the signed statement about a livepatch that passed into the store; the same each time."""
        kept = self._jobs.get(job)
        if kept is None:
            return None
        request = kept.request
        series = [Digest(patch["digest"]) for patch in request["patches"]]
        statement = Statement.of(livepatch_from(livepatch), series=series, replace=request["replace"])
        return self._store.put(sign_livepatch(self._key, statement))

    def _build(self, job: Job, directory: Path, log: Path, cancellation: Cancellation) -> Json:
        outcome = self._workshop.build(
            request_from(job.request, self._store),
            build_key=job.build_key,
            work_dir=directory,
            log=log,
            progress=self._progress(job.id),
            cancellation=cancellation,
        )
        module: Digest | None = None
        if outcome.module is not None and outcome.problem is None:
            module = self._store.put(outcome.module.read_bytes())
            if outcome.livepatch is None or outcome.livepatch.digest != module:
                message = "the module's bytes are not those of the livepatch"
                raise ValueError(message)
        return outcome_record(outcome) | {"module": module}

    def _trial(self, job: Job, built: Json, directory: Path, console: Path, cancellation: Cancellation) -> Json:
        request = request_from(job.request, self._store)
        if not request.trial:
            return _NOT_TRIED
        module = directory / "livepatch.ko"
        module.write_bytes(self._store.get(Digest(built["module"])))
        work_dir = directory / "guest"
        work_dir.mkdir()
        started = time.monotonic()
        report = self._workshop.trial(
            livepatch_from(built["livepatch"]),
            module,
            request.expectations,
            work_dir=work_dir,
            console=console,
            progress=self._progress(job.id),
            cancellation=cancellation,
        )
        return {
            "problem": report.problems[0].as_dict() if report.problems else None,
            "trial": report.as_dict() | {"problems": [problem.as_dict() for problem in report.problems]},
            "seconds": {"trial": round(time.monotonic() - started, 3)},
        }

    def _guarded(self, job: str, kept_as: str, work: _Step) -> Json:
        """Do one step in a fresh directory; whatever goes wrong becomes its answer, a stop leaves it unanswered.

        The answer has under `kept_as` the digest of what the step's tools printed.
        """
        top = self._directory / job
        with self._tracked(job) as cancellation:
            try:
                answer = self._answered(job, lambda: self._in_directory(job, top, kept_as, work, cancellation))
            finally:
                shutil.rmtree(top, ignore_errors=True)
            self._leave_if_stopping(job)
            return answer

    def _in_directory(self, job: str, top: Path, kept_as: str, work: _Step, cancellation: Cancellation) -> Json:
        shutil.rmtree(top, ignore_errors=True)
        directory = top / "work"
        directory.mkdir(mode=0o700, parents=True)
        printed = top / kept_as
        kept = self._jobs.get(job)
        if kept is None or kept.cancel_requested:
            return _unanswered(CANCELLED)
        answer = self._answered(job, lambda: work(kept, directory, printed, cancellation))
        # First, so that there is room for what explains a full disk.
        shutil.rmtree(directory, ignore_errors=True)
        if printed.is_file():
            answer |= {kept_as: self._store.put(readable(printed, limit_bytes=_LOG_BYTES))}
        return answer

    def _answered(self, job: str, work: Callable[[], Json]) -> Json:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - the one edge at which any exception becomes a job's answer
            self._leave_if_stopping(job)
            return _unanswered(self._told(job, error))

    @contextmanager
    def _tracked(self, job: str) -> Iterator[Cancellation]:
        cancellation = Cancellation.new()
        with self._lock:
            self._running[job] = cancellation
        if self._stopping.is_set():
            cancellation.event.set()
        try:
            yield cancellation
        finally:
            with self._lock:
                del self._running[job]

    def _leave_if_stopping(self, job: str) -> None:
        if self._stopping.is_set():
            self._jobs.interrupt(job)
            raise Stopped

    def _told(self, job: str, error: Exception) -> Problem:
        """Return what people are told about `error`; what they are not told goes to the log."""
        problem = problem_of(error)
        if problem is INTERNAL:
            _logger.error("job.unexpected-exception", job=job, exc_info=error)
        else:
            _logger.warning("job.problem", job=job, code=problem.code, message=problem.message)
        return problem

    def _progress(self, job: str) -> Progress:
        """Return what a builder tells its progress to; a flood of events is thinned, never an error."""
        last: dict[str, Any] = {"stage": None, "at": 0.0, "count": 0}

        def note(event: Event) -> None:
            now = time.monotonic()
            soon = event.stage == last["stage"] and now - last["at"] < _EVENT_INTERVAL_S
            partial = event.fraction is not None and event.fraction not in {0.0, 1.0}
            if (soon and partial) or last["count"] >= _EVENTS_PER_ATTEMPT:
                return
            last.update(stage=event.stage, at=now, count=last["count"] + 1)
            self._jobs.progress(job, event)

        return note


def _unanswered(problem: Problem) -> Json:
    return {"problem": problem.as_dict()}
