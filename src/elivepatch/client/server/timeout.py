# SPDX-License-Identifier: GPL-2.0-or-later
"""Time limits of commands that wait for a server, also for one that answers byte by byte or never."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from elivepatch.model.errors import ElivepatchError, EnvironmentFault

_RING_AGAIN_S = 1.0


@dataclass(slots=True)
class Waiting:
    """The job that a command waits for; `job` is empty until the server has named it."""

    job: str = ""


@contextmanager
def time_limit(seconds: float, *, unchanged: str = "", left: str = "") -> Iterator[Waiting]:
    """Raise EnvironmentFault inside the block when it takes longer than `seconds`, as `alarm` does.

    The message names the job that goes on at the server, or has `left` in its place; `unchanged` is added to it.
    """
    waiting = Waiting()
    with alarm(seconds, lambda: _over(seconds, waiting.job, unchanged, left)):
        yield waiting


@contextmanager
def alarm(seconds: float, over: Callable[[], ElivepatchError]) -> Iterator[None]:
    """Raise the error that `over` returns inside the block when it takes longer than `seconds`, which must be above 0.

    This uses SIGALRM: a time limit for each read does not end an answer that comes byte by byte. So the block must run
    in the main thread and must not change the kernel. If such blocks are nested, the earlier alarm counts.
    """

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise over()

    started, outer = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)[0]
    if 0 < outer <= seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    try:
        # Repeated: an exception that is raised inside a finalizer is lost.
        signal.setitimer(signal.ITIMER_REAL, seconds, _RING_AGAIN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - started), 0.001))


def _over(seconds: float, job: str, unchanged: str, left: str) -> EnvironmentFault:
    if job:
        left = f"Job {job} goes on at the server: the same command follows it again, `elivepatch cancel {job}` ends it."
    return EnvironmentFault(
        "limit-reached",
        f"The server was not done within {seconds:g} s{unchanged}.",
        advice=f"{left or 'The server has no job of this command.'} Set a longer time with --limit SECONDS.",
    )
