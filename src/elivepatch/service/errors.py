# SPDX-License-Identifier: GPL-2.0-or-later
"""Problems of the server itself, and the problem that people see for an exception of a step.

A step process imports this module: libraries for the database and the store would cost each one 0.2 s and 20 MiB.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from elivepatch.model.errors import ElivepatchError, EnvironmentFault, Kind, Problem

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and of a full quota."""

DISK_FULL = Problem(
    code="disk-full",
    kind=Kind.ERROR,
    message="The server's disk is full.",
    advice="Free space in its state and cache directories, then submit the job again.",
)

INTERNAL = Problem(
    code="internal-error",
    kind=Kind.ERROR,
    message="Internal error of the server.",
    advice="Submit the job again; if this repeats, the server's log has the details for a report.",
)

CRASHED = Problem(
    code="job-crashes-server",
    kind=Kind.ERROR,
    message="The server process died each time it worked on this job.",
    advice="Look for the cause in the logs of the server and of the kernel, memory first; then submit the job again.",
)


def step_crashed(how: str) -> Problem:
    """Return the problem of a job whose step process ended again and again; `how` completes `the process …`."""
    return Problem(
        code="step-crashed",
        kind=Kind.ERROR,
        message=f"The step of this job crashed twice: its process {how}.",
        advice="Look for the reason in the server's and the kernel's log, memory above all; the server itself and "
        "other jobs go on. If it happens with this patch only, report it as a fault of elivepatch.",
    )


def step_out_of_memory(how: str) -> Problem:
    """Return the problem of a job whose step process took too much memory; `how` completes `the process …`."""
    return Problem(
        code="step-memory",
        kind=Kind.ERROR,
        message=f"The step of this job was ended: its process {how}.",
        advice="Split the series, or build on a machine with more memory. If a small patch does this, report it as a "
        "fault of elivepatch.",
    )


OVERDUE = Problem(
    code="job-overdue",
    kind=Kind.ERROR,
    message="A step of the job exceeded the server's time limit.",
    advice="Find the slow part in the job's log; the server's setting step_limit_s may be too low.",
)

NO_WORKER = Problem(
    code="no-worker",
    kind=Kind.ERROR,
    message="No worker builds for this kernel any more.",
    advice="Add the kernel to a worker again (elivepatch-server kernel add), or start one; then submit the job again.",
)

DATABASE_AWAY = Problem(
    code="database-away",
    kind=Kind.ERROR,
    message="The server's database does not answer.",
    advice="Try again in a moment; if this lasts, check PostgreSQL.",
)

STORE_AWAY = Problem(
    code="store-away",
    kind=Kind.ERROR,
    message="The server's store does not answer correctly.",
    advice="Try again in a moment; if this lasts, check the object store and the server's log.",
)

CANCELLED = Problem(
    code="cancelled",
    kind=Kind.ERROR,
    message="The job was cancelled.",
    advice="Submit it again if you still need it.",
)


class LimitReached(EnvironmentFault):
    """Refusal of one request too many; the same request may succeed after `retry_s` seconds."""

    def __init__(self, code: str, message: str, *, retry_s: int, advice: str) -> None:
        super().__init__(code, message, advice=advice)
        self.retry_s = retry_s


def problem_of_step(error: Exception) -> Problem:
    """Return the problem that people see for an exception in a process that has neither database nor store.

    The text of an unexpected exception is not in it.
    """
    if isinstance(error, ElivepatchError):
        return error.problem
    return DISK_FULL if any(is_full(one) for one in causes(error)) else INTERNAL


def is_full(error: BaseException) -> bool:
    """Return whether the system reported a full disk or quota."""
    return isinstance(error, OSError) and error.errno in FULL


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its cause, the cause of that and so on."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
