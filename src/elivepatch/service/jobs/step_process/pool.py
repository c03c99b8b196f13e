# SPDX-License-Identifier: GPL-2.0-or-later
"""Step processes: one waits with everything imported, others are started when a second step is asked for."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.progress import Progress
from elivepatch.process import Cancellation, PipedProcess
from elivepatch.service.jobs.step_process.messages import (
    Answer,
    Call,
    Cancel,
    MalformedMessage,
    Recipe,
    Report,
    Start,
    decode,
    encode,
)

_PROGRAM = "elivepatch.service.jobs.step_process"
_TICK_S = 0.1
_SEND_S = 30.0
_START_S = 60.0
_LINE_BYTES = 64 << 20
_HALF = 2

_logger = structlog.get_logger()


def _memory_bytes() -> int:
    """Return 4 GiB, or half of the machine's memory if that is less."""
    return min(4 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _HALF)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """Limits of a step process.

    One with more than `memory_bytes` during a step is killed; the programs it starts do not count, they have a control
    group (build.sandbox.cgroup). One with more than `keep_bytes` after a step is replaced by a fresh one. After a
    cancellation a step has `grace_s` seconds to end its programs.
    """

    memory_bytes: int = _memory_bytes()
    keep_bytes: int = 300 << 20
    grace_s: float = 2.5


class StepLost(Exception):
    """A step process that ended, or was ended, before it answered. `how` completes `The process …`."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class StepOutOfMemory(StepLost):
    """A step process that was killed because it had more memory than the limit."""


class StepCancelled(StepLost):
    """A step that was cancelled."""


class StepProcess:
    """One step process, seen from the server."""

    def __init__(self, recipe: Recipe, limits: StepLimits) -> None:
        """Start it; raises EnvironmentFault or StepLost if that does not work."""
        self._limits = limits
        # -P: the working directory is not searched for modules.
        self._process = PipedProcess([sys.executable, "-P", "-m", _PROGRAM], cwd="/", env=os.environ)
        self._send(encode(Start(recipe=recipe, parent=os.getpid())))

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def usable(self) -> bool:
        """True while it runs and is small enough for another step."""
        return self._process.status is None and self._process.resident_bytes() <= self._limits.keep_bytes

    def ask(self, call: Call, *, progress: Progress, cancellation: Cancellation) -> Answer:
        """Have a step done and return the answer; raises StepLost, after which the process is of no more use."""
        self._send(encode(call))
        deadline: float | None = None
        while True:
            line = self._receive()
            if line is not None:
                message = _message(line)
                if isinstance(message, Report):
                    progress(message.event)
                elif not isinstance(message, Answer):
                    raise StepLost("sent a message that is no answer")
                elif deadline is None:
                    return message
                else:
                    raise StepCancelled("was cancelled")
            if cancellation.event.is_set() and deadline is None:
                self._send(encode(Cancel()))
                deadline = time.monotonic() + self._limits.grace_s
            if deadline is not None and time.monotonic() > deadline:
                raise StepCancelled("did not end its step in time after a cancellation")
            if self._process.resident_bytes() > self._limits.memory_bytes:
                raise StepOutOfMemory(f"used more than {self._limits.memory_bytes >> 20} MiB of memory")

    def end(self, *, grace_s: float = 0.0) -> int:
        """End it and return its status."""
        return self._process.end(grace_s=grace_s)

    def kill(self) -> None:
        """Kill it from any thread; the thread that waits for its answer sees that."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _send(self, data: bytes) -> None:
        try:
            self._process.send(data, timeout_s=_SEND_S)
        except OSError as error:
            raise StepLost(self._ending()) from error

    def _receive(self) -> bytes | None:
        try:
            line = self._process.receive(timeout_s=_TICK_S, limit_bytes=_LINE_BYTES)
        except ValueError as error:
            raise StepLost(f"sent {error}") from error
        if line == b"":
            raise StepLost(self._ending())
        return line

    def _ending(self) -> str:
        status = self.end(grace_s=1.0)
        if status >= 0:
            return f"ended with exit status {status}"
        return f"was ended by signal {-status} ({signal.Signals(-status).name})"


def _message(line: bytes) -> object:
    try:
        return decode(line)
    except MalformedMessage as error:
        raise StepLost("sent something that is no message") from error


class StepPool:
    """The step processes of a server or worker. Every method may be called from any thread.

    A thread of its own starts the processes and lives as long as the pool: the kernel ends a step process when the
    thread that started it ends (`process.end_with_parent`).
    """

    def __init__(self, recipe: Recipe, limits: StepLimits) -> None:
        self._recipe = recipe
        self._limits = limits
        self._changed = threading.Condition()
        self._idle: list[StepProcess] = []
        self._busy: set[StepProcess] = set()
        self._waiting = 0
        self._fault: EnvironmentFault | None = None
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, name="step-processes", daemon=True)

    def start(self) -> None:
        """Start the process that waits for the first step."""
        self._keeper.start()

    def pids(self) -> list[int]:
        """Return the process ids of all step processes."""
        with self._changed:
            return [process.pid for process in (*self._idle, *self._busy)]

    @contextmanager
    def process(self) -> Iterator[StepProcess]:
        """Lend a process for one step. It is ended if the block raises, or if it is not usable any more."""
        taken = self._take()
        clean = False
        try:
            yield taken
            clean = True
        finally:
            self._give_back(taken, clean=clean)

    def close(self) -> None:
        """End all processes; steps that still run are lost."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            for process in self._busy:
                process.kill()
            self._changed.notify_all()
        for process in idle:
            process.end()
        if self._keeper.ident is not None:
            self._keeper.join(timeout=5.0)

    def _take(self) -> StepProcess:
        deadline = time.monotonic() + _START_S
        with self._changed:
            # Of an earlier try; this one may go better.
            self._fault = None
            self._waiting += 1
            self._changed.notify_all()
            try:
                while True:
                    self._fault_or_closed()
                    while self._idle:
                        process = self._idle.pop()
                        if process.usable:
                            self._busy.add(process)
                            return process
                        process.end()
                        self._changed.notify_all()
                    if not self._changed.wait(timeout=max(0.0, deadline - time.monotonic())):
                        raise StepLost("did not start in time")
            finally:
                self._waiting -= 1

    def _fault_or_closed(self) -> None:
        if self._closed:
            raise StepCancelled("is not started any more: the server stops")
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def _give_back(self, process: StepProcess, *, clean: bool) -> None:
        keep = clean and process.usable
        with self._changed:
            self._busy.discard(process)
            # One idle process is enough: steps of jobs come one after the other.
            keep = keep and not self._closed and len(self._idle) <= self._waiting
            if keep:
                self._idle.append(process)
            self._changed.notify_all()
        if not keep:
            process.end()

    def _keep(self) -> None:
        """Start processes: for steps that wait, and one that waits for a step if there is none at all."""
        while True:
            with self._changed:
                while not self._closed and not self._wanted():
                    self._changed.wait()
                if self._closed:
                    return
            self._start_one()

    def _wanted(self) -> bool:
        if self._fault is not None:
            return False
        return self._waiting > len(self._idle) or not (self._idle or self._busy)

    def _start_one(self) -> None:
        try:
            process = StepProcess(self._recipe, self._limits)
        except (EnvironmentFault, StepLost) as error:
            _logger.warning("step-process.not-started", reason=str(error))
            fault = error if isinstance(error, EnvironmentFault) else None
            with self._changed:
                self._fault = fault or EnvironmentFault(
                    "step-process",
                    "The server cannot start a process for the steps of jobs.",
                    advice="Look into the server's log for the reason.",
                )
                self._changed.notify_all()
            return
        with self._changed:
            closed = self._closed
            if not closed:
                self._idle.append(process)
                self._changed.notify_all()
        if closed:
            process.end()
