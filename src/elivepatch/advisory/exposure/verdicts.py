# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known about the fix of each CVE on one kernel: its source patches, and what became of them on the server.

A verdict holds for exactly these source patches and this builder. While both stay as they are, nobody asks again:
the same question has the same answer, and a fix that cannot be a livepatch is shown as needing a reboot.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from elivepatch.advisory.records.record import CVE_ID, plain
from elivepatch.model.errors import Kind, Problem, UsageError
from elivepatch.model.kernel import Digest, Release, parse_release

SCHEMA = 1
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z0-9_.-]{1,64}:[A-Za-z0-9_.$]{1,511}", re.ASCII)
_STAMP = re.compile(r"[0-9TZ:.+-]{0,40}", re.ASCII)


class FixOutcome(enum.StrEnum):
    """What a fix can be on this kernel."""

    UNTRIED = "untried"
    CONVERTIBLE = "convertible"
    NEEDS_REBOOT = "needs-reboot"
    NOTHING_TO_DO = "nothing-to-do"  # the source has the fix already, or the compiled code is the same with it
    COVERED = "covered"  # another fix brings the very same change


_NOTHING_TO_DO = frozenset({"already-applied", "not-built", "no-change"})
_CONTEXT = frozenset({"does-not-apply", "compile-error", "undefined-symbol"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FixVerdict:
    """One CVE's fix.

    `patches` are the SHA-256 of its source patches in order. `builder` is KernelSources.builder at the time, and
    `problem` what the server said, None where nothing speaks against a livepatch or nobody asked yet. `functions` are
    what the fix replaces, as `object:function`. `after` are digests of other source patches to the same files that went
    before it when it was asked, none where it was asked alone. `beside` are those of the whole series in which it
    failed though it works without, none where it did not. `at` is when it was asked (UTC, ISO 8601).
    """

    patches: tuple[Digest, ...]
    builder: Digest
    asked: bool = False
    problem: Problem | None = None
    functions: tuple[str, ...] = ()
    after: tuple[Digest, ...] = ()
    beside: tuple[Digest, ...] = ()
    at: str = ""

    @property
    def outcome(self) -> FixOutcome:
        """What follows from it."""
        if self.problem is None:
            return FixOutcome.CONVERTIBLE if self.asked else FixOutcome.UNTRIED
        if self.problem.code not in _NOTHING_TO_DO:
            return FixOutcome.NEEDS_REBOOT
        # What is there already beside other fixes, and was not alone, came with one of these.
        return FixOutcome.COVERED if self.beside else FixOutcome.NOTHING_TO_DO

    @property
    def closed_by(self) -> frozenset[Digest]:
        """The source patches that close the CVE once all of them are live."""
        return frozenset(self.beside if self.outcome is FixOutcome.COVERED else self.patches)

    @property
    def lacks_context(self) -> bool:
        """Whether the fix may work after others that change the same files."""
        return self.problem is not None and self.problem.code in _CONTEXT and not self.beside

    def holds(self, patches: Sequence[Digest], builder: Digest) -> bool:
        """Tell whether the server was asked about exactly these patches with this builder."""
        return self.asked and self.patches == tuple(patches) and self.builder == builder


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
        """Rebuild from `as_dict`'s mapping; raises UsageError where it is not one."""
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


def _damaged() -> UsageError:
    return UsageError(
        "cve-verdicts",
        "The remembered verdicts on fixes are damaged, or of another version.",
        advice="Remove the file; the server is asked again then.",
    )


def lasting(problem: Problem) -> bool:
    """Tell whether a problem is about the source patches, so that asking again has the same answer."""
    return problem.kind in {Kind.VERDICT, Kind.FAILURE}


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
    )


def remembered(problem: Problem) -> Problem:
    """Return what is kept of a problem: one line each, no excerpt."""
    return Problem(
        code=plain(problem.code, 60), kind=problem.kind, message=plain(problem.message, 400),
        advice=plain(problem.advice, 400),
    )  # fmt: skip


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(value)
    return value
