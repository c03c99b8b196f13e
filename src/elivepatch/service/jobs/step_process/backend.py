# SPDX-License-Identifier: GPL-2.0-or-later
"""A build backend that does builds, trials and the parsing of sources in step processes."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from elivepatch.model.build import BuildOutcome, BuildRequest, Livepatch, PatchedFunction
from elivepatch.model.errors import EnvironmentFault, Problem
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Progress, silent
from elivepatch.model.trial import DebugTrial, Expectation, TrialReport
from elivepatch.process import Cancellation
from elivepatch.service.errors import CANCELLED, step_crashed, step_out_of_memory
from elivepatch.service.jobs.backend import BuildBackend
from elivepatch.service.jobs.step_process.messages import (
    Answer,
    BaseCall,
    BaseMade,
    BuildCall,
    Built,
    Call,
    DebugTrialCall,
    DebugTried,
    Recipe,
    Refused,
    SourcesCall,
    TrialCall,
    Tried,
)
from elivepatch.service.jobs.step_process.pool import (
    StepCancelled,
    StepLimits,
    StepLost,
    StepOutOfMemory,
    StepPool,
)
from elivepatch.trial.case import EarlierLivepatch

_TRIES = 2
"""A process may be killed for reasons that are not the job's; one that ends twice at the same step is the job's."""

_SOURCES_KEPT = 4
_SOURCES_LIMIT_S = 900.0

_logger = structlog.get_logger()


class StepFailed(EnvironmentFault):
    """A step that ended with a problem in place of an answer; the kind of the problem is its own."""

    def __init__(self, problem: Problem) -> None:
        Exception.__init__(self, problem.message)
        self.problem = problem


class ProcessBackend:
    """Answers small questions with `backend` itself and has its long work done by the same backend in processes."""

    def __init__(self, backend: BuildBackend, limits: StepLimits | None = None) -> None:
        self._backend = backend
        self.pool = StepPool(backend.recipe(), limits or StepLimits())
        self._sources: OrderedDict[Digest, bytes] = OrderedDict()
        self._sources_lock = threading.Lock()

    def recipe(self) -> Recipe:
        """Return the way to make the backend that does the work."""
        return self._backend.recipe()

    def sweep(self) -> None:
        """Remove what killed processes left behind, and start a step process."""
        self._backend.sweep()
        self.pool.start()

    def close(self) -> None:
        """End all step processes."""
        self.pool.close()
        self._backend.close()

    def revision(self) -> str:
        """Return a text that changes with the kernels and with `facts` of any."""
        return self._backend.revision()

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that can be built for."""
        return self._backend.kernels()

    def base_patches(self, release: str) -> Mapping[str, Digest]:
        """Return the patches that a kernel's source had before it was built, by name."""
        return self._backend.base_patches(release)

    def facts(self, release: str) -> Digest:
        """Return the digest of all that determines, together with the series, the bytes of a module."""
        return self._backend.facts(release)

    def encoded_sources(self, release: str) -> bytes:
        """Return what a kernel was built from; computed once for the last few kernels."""
        facts = self.facts(release)
        with self._sources_lock:
            if facts not in self._sources:
                self._sources[facts] = self._computed_sources(release)
                if len(self._sources) > _SOURCES_KEPT:
                    self._sources.popitem(last=False)
            self._sources.move_to_end(facts)
            return self._sources[facts]

    def build(
        self,
        request: BuildRequest,
        *,
        build_key: Digest,
        work_dir: Path,
        log: Path,
        progress: Progress,
        cancellation: Cancellation,
        tenant: str,
    ) -> BuildOutcome:
        """Build the module inside `work_dir` and write what tools print to `log`."""
        call = BuildCall(request=request, build_key=build_key, work_dir=work_dir, log=log, tenant=tenant)
        answer = self._ask(call, work_dir, progress, cancellation)
        if not isinstance(answer, Built):
            raise TypeError(answer)
        return answer.outcome

    def trial(
        self,
        livepatch: Livepatch,
        module: Path,
        expectations: Sequence[Expectation],
        *,
        work_dir: Path,
        console: Path,
        progress: Progress,
        cancellation: Cancellation,
        earlier: EarlierLivepatch | None = None,
    ) -> TrialReport:
        """Boot the livepatch's kernel in a VM, try the module there, and write the guest's console to `console`.

        It is also loaded over `earlier`, a livepatch that it replaces, if there is one.
        """
        call = TrialCall(
            livepatch=livepatch, module=module, expectations=tuple(expectations), work_dir=work_dir, console=console,
            earlier=earlier,
        )  # fmt: skip
        answer = self._ask(call, work_dir, progress, cancellation)
        if not isinstance(answer, Tried):
            raise TypeError(answer)
        return answer.report

    def debug_trial(
        self,
        request: BuildRequest,
        replaced: Sequence[PatchedFunction],
        *,
        work_dir: Path,
        console: Path,
        progress: Progress,
        cancellation: Cancellation,
        tenant: str,
    ) -> DebugTrial:
        """Build the series for the debugging kernel of the base, try it there, and write that console to `console`."""
        call = DebugTrialCall(
            request=request, replaced=tuple(replaced), work_dir=work_dir, console=console, tenant=tenant
        )
        answer = self._ask(call, work_dir, progress, cancellation)
        if not isinstance(answer, DebugTried):
            raise TypeError(answer)
        return answer.answer

    def make_base(
        self,
        asked: KernelRequest,
        *,
        pushed: Path,
        log: Path,
        progress: Progress,
        cancellation: Cancellation,
    ) -> KernelIdentity:
        """Make the base of a kernel, unless it is there, and write what was done to `log`."""
        answer = self._ask(BaseCall(asked=asked, pushed=pushed, log=log), None, progress, cancellation)
        if not isinstance(answer, BaseMade):
            raise TypeError(answer)
        return answer.kernel

    def _computed_sources(self, release: str) -> bytes:
        cancellation = Cancellation.new()
        limit = threading.Timer(_SOURCES_LIMIT_S, cancellation.event.set)
        limit.daemon = True
        limit.start()
        try:
            with tempfile.TemporaryDirectory(prefix="elivepatch-sources-") as directory:
                output = Path(directory, "sources.json")
                call = SourcesCall(release=release, output=output)
                self._ask(call, Path(directory), silent, cancellation)
                return output.read_bytes()
        finally:
            limit.cancel()

    def _ask(self, call: Call, work_dir: Path | None, progress: Progress, cancellation: Cancellation) -> Answer:
        """Have a step done; raises StepFailed if it has no answer. `work_dir` is emptied before a second try."""
        for tries_left in reversed(range(_TRIES)):
            try:
                with self.pool.process() as process:
                    answer = process.ask(call, progress=progress, cancellation=cancellation)
            except StepCancelled as ended:
                raise StepFailed(CANCELLED) from ended
            except StepOutOfMemory as ended:
                _logger.warning("step-process.memory", step=type(call).__name__, how=ended.how)
                raise StepFailed(step_out_of_memory(ended.how)) from ended
            except StepLost as ended:
                _logger.warning("step-process.lost", step=type(call).__name__, how=ended.how, again=tries_left > 0)
                if cancellation.event.is_set():
                    raise StepFailed(CANCELLED) from ended
                if not tries_left:
                    raise StepFailed(step_crashed(ended.how)) from ended
                if work_dir is not None:
                    _empty(work_dir)
            else:
                return _accepted(answer)
        raise AssertionError


def _accepted(answer: Answer) -> Answer:
    if isinstance(answer, Refused):
        if answer.trace:
            _logger.error("job.unexpected-exception", exception=answer.trace)
        raise StepFailed(answer.problem)
    return answer


def _empty(directory: Path) -> None:
    for left in directory.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
