# SPDX-License-Identifier: GPL-2.0-or-later
"""Problems as values and as exceptions.

A patch that cannot become a livepatch, a compile error and a failed trial are expected outcomes: a `Problem`, a value
that travels in reports, describes each. An `ElivepatchError` is raised if the work cannot go on. It carries a `Problem`
too, so that every message has a code, one sentence and a piece of advice.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any


class ExitStatus(enum.IntEnum):
    """Exit statuses of the commands; stable, documented in docs/exit-status.md."""

    OK = 0
    FAILED = 1  # the patch cannot be built, or the trial failed
    USAGE = 2
    VERDICT = 3  # the patch cannot be a livepatch
    SERVICE = 4  # server or network
    TRUST = 5
    HOST = 6


class Kind(enum.StrEnum):
    """Kind of a problem: who is responsible for it. It decides the job's result and the exit status of the client."""

    VERDICT = "verdict"  # this series cannot be a livepatch for this kernel
    FAILURE = "failure"  # the patch's own fault: does not apply, does not compile, fails its trial
    USAGE = "usage"  # the request is malformed
    ERROR = "error"  # the fault of elivepatch or its machine: environment, server, network
    TRUST = "trust"
    HOST = "host"

    @property
    def exit_status(self) -> ExitStatus:
        """The exit status of a command that ends with a problem of this kind."""
        return {
            Kind.VERDICT: ExitStatus.VERDICT,
            Kind.FAILURE: ExitStatus.FAILED,
            Kind.USAGE: ExitStatus.USAGE,
            Kind.ERROR: ExitStatus.SERVICE,
            Kind.TRUST: ExitStatus.TRUST,
            Kind.HOST: ExitStatus.HOST,
        }[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that went wrong, and what a person can do about it.

    `code` is stable and documented (docs/codes.md), `message` is one sentence, `advice` is the next step,
    `excerpt` holds the relevant lines of a log or a patch and may be empty.
    """

    code: str
    kind: Kind
    message: str
    advice: str
    excerpt: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return a JSON-ready mapping of the fields."""
        return {key: str(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Problem:
        """Return the problem that `as_dict` made `data` from; raises KeyError or ValueError for any other mapping."""
        return cls(
            code=str(data["code"]),
            kind=Kind(data["kind"]),
            message=str(data["message"]),
            advice=str(data["advice"]),
            excerpt=str(data.get("excerpt", "")),
        )


class ElivepatchError(Exception):
    """Base of all exceptions this project raises on purpose."""

    kind = Kind.ERROR

    def __init__(self, code: str, message: str, *, advice: str, excerpt: str = "") -> None:
        super().__init__(message)
        self.problem = Problem(code=code, kind=self.kind, message=message, advice=advice, excerpt=excerpt)


class UsageError(ElivepatchError):
    """The request or the command line is malformed."""

    kind = Kind.USAGE


class EnvironmentFault(ElivepatchError):
    """Something outside the patch is missing or broken: a package, a tool, the disk, the network."""

    kind = Kind.ERROR


class TrustError(ElivepatchError):
    """A signature, digest or identity does not hold."""

    kind = Kind.TRUST


class HostError(ElivepatchError):
    """The host cannot carry out the request."""

    kind = Kind.HOST


class BuildStopped(ElivepatchError):
    """A build that ends without a livepatch; raised inside a builder, returned by it as a result."""

    def __init__(self, problem: Problem) -> None:
        Exception.__init__(self, problem.message)
        self.problem = problem
