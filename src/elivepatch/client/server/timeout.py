# SPDX-License-Identifier: GPL-2.0-or-later
"""Time limits on what a command asks of a server: whatever answers late, in drops or never, it ends."""

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
    """What is waited for: `job` is empty until the server has given it a name."""

    job: str = ""


@contextmanager
def time_limit(seconds: float, *, unchanged: str = "", left: str = "") -> Iterator[Waiting]:
    """Raise EnvironmentFault, wherever the block is, when it takes longer; it says what is left behind at the server.

    As `alarm` does it. `unchanged` is added to the sentence, `left` says what is left behind where that is not the one
    job that is waited for.
    """
    waiting = Waiting()
    with alarm(seconds, lambda: _over(seconds, waiting.job, unchanged, left)):
        yield waiting


@contextmanager
def alarm(seconds: float, over: Callable[[], ElivepatchError]) -> Iterator[None]:
    """Raise what `over` returns, wherever the block is, when it takes longer than `seconds`, which are more than 0.

    By a signal: time limits of single reads never end what comes in drops. So the block must not change the kernel,
    and it must run in the main thread. Within another such block the earlier alarm counts.
    """

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise over()

    started, outer = time.monotonic(), signal.getitimer(signal.ITIMER_REAL)[0]
    if 0 < outer <= seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    try:
        # Again and again: an exception in the middle of a finalizer is lost.
        signal.setitimer(signal.ITIMER_REAL, seconds, _RING_AGAIN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - started), 0.001))


def _over(seconds: float, job: str, unchanged: str, left: str) -> EnvironmentFault:
    if job:
        left = (
            f"Job {job} goes on at the server: the same command takes it up again, `elivepatch cancel {job}` ends it."
        )
    return EnvironmentFault(
        "limit-reached",
        f"The server was not done within {seconds:g} s{unchanged}.",
        advice=f"{left or 'No job is left behind at the server.'} --limit SECONDS gives it longer.",
    )
