# SPDX-License-Identifier: GPL-2.0-or-later
"""The program of a step process: reads calls from standard input, does them one by one, answers on standard output.

The main thread computes. A second thread reads, so that a cancellation is heard and the end of the server is noticed
while a step runs. A step that keeps both from running is ended from outside, by the server or by the kernel.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import queue
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, cast

from elivepatch.model.progress import Event
from elivepatch.process import Cancellation, end_with_parent
from elivepatch.service import log
from elivepatch.service.errors import INTERNAL, problem_of_step
from elivepatch.service.jobs.backend import BuildBackend
from elivepatch.service.jobs.step_process.messages import (
    Answer,
    BaseCall,
    BaseMade,
    BuildCall,
    Built,
    Call,
    Cancel,
    DebugTrialCall,
    DebugTried,
    Message,
    Recipe,
    Refused,
    Report,
    SourcesCall,
    Start,
    Tried,
    Written,
    decode,
    encode,
)
from elivepatch.service.jobs.step_process.progress import ProgressFilter

_NICE = 10
# When the machine runs out of memory, the kernel ends a step and its programs before it ends the server (proc(5)).
_OOM_SCORE = "500"


def main() -> None:
    """Do steps until the server closes standard input."""
    faulthandler.enable()
    for number in (signal.SIGTERM, signal.SIGINT):
        # An init system signals the whole service. The server decides when its steps end.
        signal.signal(number, _ignore)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    log.set_up()
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # The output of libraries belongs into the log, not between the messages.
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)
    start = decode(requests.readline())
    if not isinstance(start, Start):
        sys.exit("This program is started by elivepatch-server only.")
    end_with_parent(start.parent)
    StepProgram(make_backend(start.recipe), requests, answers).run()


def make_backend(recipe: Recipe) -> BuildBackend:
    """Return the backend that a recipe describes."""
    sys.path += recipe.search
    module, _, name = recipe.factory.partition(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    factory = cast("type[BuildBackend]", found)
    return factory(**recipe.words)


class StepProgram:
    """Does the calls that it reads from `requests` with a backend and writes reports and answers to `answers`."""

    def __init__(self, backend: BuildBackend, requests: BinaryIO, answers: BinaryIO) -> None:
        self._backend = backend
        self._requests = requests
        self._answers = answers
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._cancellation = Cancellation.new()
        self._writing = threading.Lock()
        self._nice = False

    def run(self) -> None:
        """Do calls; does not return, the process ends with the last request."""
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        while True:
            call = self._calls.get()
            self._write(self.answer(call))

    def answer(self, call: Call) -> Answer:
        """Do one step. Any exception becomes an answer."""
        try:
            return self._do(call)
        except Exception as error:  # noqa: BLE001 - the edge of the process
            problem = problem_of_step(error)
            return Refused(problem=problem, trace=traceback.format_exc() if problem is INTERNAL else "")

    def _do(self, call: Call) -> Answer:
        progress = ProgressFilter(self._report)
        if isinstance(call, SourcesCall):
            # A server that starts waits for these, so they have its priority.
            call.output.write_bytes(self._backend.encoded_sources(call.release))
            return Written()
        if not self._nice:
            # Of this process and all programs of its steps: the server answers while compilers have all processors.
            os.nice(_NICE)
            self._nice = True
        if isinstance(call, BuildCall):
            outcome = self._backend.build(
                call.request,
                build_key=call.build_key,
                work_dir=call.work_dir,
                log=call.log,
                progress=progress,
                cancellation=self._cancellation,
                tenant=call.tenant,
            )
            return Built(outcome=outcome)
        if isinstance(call, BaseCall):
            kernel = self._backend.make_base(
                call.asked, pushed=call.pushed, log=call.log, progress=progress, cancellation=self._cancellation
            )
            return BaseMade(kernel=kernel)
        if isinstance(call, DebugTrialCall):
            answer = self._backend.debug_trial(
                call.request,
                call.replaced,
                work_dir=call.work_dir,
                console=call.console,
                progress=progress,
                cancellation=self._cancellation,
                tenant=call.tenant,
            )
            return DebugTried(answer=answer)
        report = self._backend.trial(
            call.livepatch,
            call.module,
            call.expectations,
            work_dir=call.work_dir,
            console=call.console,
            progress=progress,
            cancellation=self._cancellation,
            earlier=call.earlier,
        )
        return Tried(report=report)

    def _report(self, event: Event) -> None:
        self._write(Report(event=event))

    def _write(self, message: Message) -> None:
        # Builders report from several threads.
        with self._writing:
            self._answers.write(encode(message))
            self._answers.flush()

    def _read(self) -> None:
        try:
            for line in self._requests:
                message = decode(line)
                if isinstance(message, Cancel):
                    # For good: the server does not use a process again whose step it cancelled.
                    self._cancellation.event.set()
                elif isinstance(message, Call):
                    self._calls.put(message)
        finally:
            # The server has ended or has no more use for this process. Its programs end with it (PR_SET_PDEATHSIG).
            os._exit(0)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing; SIG_IGN would be inherited by the programs of a step."""
