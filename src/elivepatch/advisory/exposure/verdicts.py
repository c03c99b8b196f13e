# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts of a server on the fix of each CVE for one kernel.

A verdict holds for exactly these source patches and this builder. While both stay the same, the server is not asked
again: the same question has the same answer, and a fix that cannot be a livepatch is shown as needing a reboot. The
exception is a trial, which may fail by chance: its failure is remembered for a week.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from elivepatch.advisory.records.record import COMMIT, CVE_ID, plain
from elivepatch.model.errors import Kind, Problem, UsageError
from elivepatch.model.kernel import Digest, Release, parse_release

SCHEMA = 1
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z0-9_.-]{1,64}:[A-Za-z0-9_.$]{1,511}", re.ASCII)
_STAMP = re.compile(r"[0-9TZ:.+-]{0,40}", re.ASCII)


TRIAL_RETRY = timedelta(days=7)
"""Time for which a fix stays left out because a trial failed with it."""

_TRIAL = "trial-"
_NO_ANSWER = frozenset({"trial-predicate-broken", "trial-unpatched"})
"""Codes of trials that say nothing of a patch, but are the fault of what is expected of it."""

_TOO_LARGE = frozenset({"patch-too-large", "request-too-large", "request-invalid"})


class FixOutcome(enum.StrEnum):
    """The use of a fix on this kernel."""

    UNTRIED = "untried"
    CONVERTIBLE = "convertible"
    NEEDS_REBOOT = "needs-reboot"
    FIX_INCOMPLETE = "fix-incomplete"  # no livepatch, and no newer kernel of its branch has the fix
    NOTHING_TO_DO = "nothing-to-do"  # the source has the fix already, or the compiled code is the same with it
    COVERED = "covered"  # another fix brings the very same change


_NOTHING_TO_DO = frozenset({"already-applied", "not-built", "no-change"})
_CONTEXT = frozenset({"does-not-apply", "hunk-place", "compile-error", "undefined-symbol"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FixVerdict:
    """One CVE's fix.

    `patches` are the SHA-256 of its source patches in order. `builder` is KernelSources.builder at the time. `problem`
    is the server's, None if it can be a livepatch or was not asked about yet. `functions` are the replaced ones, as
    `object:function`. `after` are the digests of other source patches to the same files that went before it in the
    question, none if it was asked about alone. `beside` are those of the whole series that failed only with this fix,
    none if no series did. `at` is the time of the question (UTC, ISO 8601). `applied` are those of the patches that the
    kernel's source has already. `commits` are the fixing commits that the list named when the patches were looked up.
    """

    patches: tuple[Digest, ...]
    builder: Digest
    asked: bool = False
    problem: Problem | None = None
    functions: tuple[str, ...] = ()
    after: tuple[Digest, ...] = ()
    beside: tuple[Digest, ...] = ()
    at: str = ""
    applied: tuple[Digest, ...] = ()
    commits: tuple[str, ...] = ()

    @property
    def outcome(self) -> FixOutcome:
        """The use of the fix that follows from this verdict."""
        if self.problem is None:
            return FixOutcome.CONVERTIBLE if self.asked else FixOutcome.UNTRIED
        # A change that is there only beside other fixes came with one of these.
        if self.beside and self.problem.code == "patch-repeated" and len(self.patches) == 1:
            return FixOutcome.COVERED
        if self.problem.code not in _NOTHING_TO_DO or self._partly_applied:
            return FixOutcome.NEEDS_REBOOT
        return FixOutcome.COVERED if self.beside else FixOutcome.NOTHING_TO_DO

    @property
    def closed_by(self) -> frozenset[Digest]:
        """The source patches that close the CVE once all of them are live."""
        wanted = frozenset(self.beside if self.outcome is FixOutcome.COVERED else self.patches)
        return wanted - frozenset(self.applied)

    @property
    def _partly_applied(self) -> bool:
        """True if the source has one of several patches, and it is not known that it has the others too."""
        left = set(self.patches) - set(self.applied)
        return self.problem is not None and self.problem.code == "already-applied" and len(left) > 1

    def closes(self, commits: Collection[str]) -> bool:
        """Return whether these patches are the whole fix, if the list names these commits as its parts now."""
        if not self.commits:
            # Noted by an earlier version, or from a place that knows no commits: several parts may be missing there.
            return len(commits) < 2
        return set(commits) <= set(self.commits)

    @property
    def lacks_prerequisites(self) -> bool:
        """True if the fix alone does not apply, compile or link: changes that it stands on are missing."""
        return self.problem is not None and self.problem.code in _CONTEXT

    @property
    def lacks_context(self) -> bool:
        """True if the fix may work after others that change the same files."""
        return self.problem is not None and self.problem.code in _CONTEXT and not self.beside

    def holds(self, patches: Sequence[Digest], builder: Digest) -> bool:
        """Return whether the server was asked about exactly these patches with this builder."""
        return self.asked and self.patches == tuple(patches) and self.builder == builder

    def expired(self, now: datetime) -> bool:
        """Return whether this is a trial's failure that does not keep the fix out; `now` has a time zone.

        It is too old, or it says nothing of the patch.
        """
        if self.problem is None or not self.problem.code.startswith(_TRIAL):
            return False
        if self.problem.code in _NO_ANSWER:
            return True
        try:
            return now - datetime.fromisoformat(self.at) > TRIAL_RETRY
        except (ValueError, TypeError):  # written by a version that did not note the time
            return True


@dataclass(slots=True, kw_only=True)
class FixVerdicts:
    """The verdicts for one kernel release, by CVE."""

    release: Release
    by_cve: dict[str, FixVerdict] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return {
            "schema": SCHEMA,
            "release": self.release,
            "verdicts": {name: asdict(verdict) for name, verdict in sorted(self.by_cve.items())},
        }

    @classmethod
    def from_dict(cls, read: Any) -> FixVerdicts:
        """Rebuild from `as_dict`'s mapping; raises UsageError if it is not one."""
        try:
            schema = read["schema"]
            made = cls(
                release=parse_release(read["release"]),
                by_cve={_matching(CVE_ID, name): _verdict(one) for name, one in read["verdicts"].items()},
            )
        except (KeyError, ValueError, TypeError, AttributeError, UsageError) as error:
            raise _damaged() from error
        if schema != SCHEMA:
            raise _damaged()
        return made

    @staticmethod
    def log_line(cve: str, verdict: FixVerdict) -> bytes:
        """Return one verdict as a line of the log, without its line feed."""
        return json.dumps({"schema": SCHEMA, "cve": cve, "verdict": asdict(verdict)}, ensure_ascii=False).encode()

    def replay(self, log: bytes) -> None:
        """Take over the verdicts of a log; a line that was cut off or damaged is skipped: it costs one question."""
        for line in log.split(b"\n"):
            try:
                read = json.loads(line)
                if read["schema"] == SCHEMA:
                    self.by_cve[_matching(CVE_ID, read["cve"])] = _verdict(read["verdict"])
            except (KeyError, ValueError, TypeError, AttributeError, RecursionError, UsageError):
                continue


def _damaged() -> UsageError:
    return UsageError(
        "cve-verdicts",
        "The remembered verdicts on fixes are damaged, or of another version.",
        advice="Remove the file; the server is asked again then.",
    )


def about_patches(problem: Problem) -> bool:
    """Return whether a problem is about the source patches, and not about the server or the size of a request.

    A predicate or command that comes with a fix and gives no answer, or kills the guest, belongs to that fix: one such
    fix does not keep out all others.
    """
    return (problem.kind in {Kind.VERDICT, Kind.FAILURE} and problem.code not in _TOO_LARGE) or (
        problem.code in _NO_ANSWER
    )


def lasting(problem: Problem) -> bool:
    """Return whether a problem is about the source patches and the same question has the same answer.

    The failure of a trial is not lasting, as on the server: the next run of the same virtual machine may pass.
    """
    return about_patches(problem) and not problem.code.startswith(_TRIAL)


def _verdict(read: Any) -> FixVerdict:
    problem = read["problem"]
    return FixVerdict(
        patches=tuple(Digest(_matching(_DIGEST, one)) for one in read["patches"]),
        builder=Digest(_matching(_DIGEST, read["builder"])),
        asked=read["asked"] is True,
        problem=Problem.from_dict({**problem, "excerpt": ""}) if problem is not None else None,
        functions=tuple(_matching(_FUNCTION, one) for one in read["functions"]),
        after=tuple(Digest(_matching(_DIGEST, one)) for one in read["after"]),
        beside=tuple(Digest(_matching(_DIGEST, one)) for one in read["beside"]),
        at=_matching(_STAMP, read["at"]),
        applied=tuple(Digest(_matching(_DIGEST, one)) for one in read.get("applied", ())),
        commits=tuple(_matching(COMMIT, one) for one in read.get("commits", ())),
    )


def remembered(problem: Problem) -> Problem:
    """Return the part of a problem that is kept: one line each, no excerpt."""
    return Problem(
        code=plain(problem.code, 60), kind=problem.kind, message=plain(problem.message, 400),
        advice=plain(problem.advice, 400),
    )  # fmt: skip


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(value)
    return value
