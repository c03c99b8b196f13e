# SPDX-License-Identifier: GPL-2.0-or-later
"""Expectations of a trial, and the report on it."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from elivepatch.model.errors import Kind, Problem, UsageError
from elivepatch.model.predicate import SECONDS_LIMIT, Predicate

PHASES = ("before", "during", "after")
"""Phases of a trial: before the livepatch is loaded, while it is enabled, after it was disabled."""

EXPECTATIONS_LIMIT = 64
"""Expectations of one build request: each runs several commands in the guest, and a trial has a time limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A command of the guest's shell, and a regular expression that its output matches while the livepatch is enabled.

    Before and after, the output must not match: that shows that the livepatch made the difference and left no trace.
    With a `predicate`, that program takes the place of both: `command` is its name and `pattern` is empty.
    """

    command: str
    pattern: str
    predicate: Predicate | None = None

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """Read `COMMAND =~ REGEX`, or `/absolute/file =~ REGEX` for a file's content.

        Raises UsageError if a side is missing. If the expression compiles is a question for patterns.py.
        """
        command, separator, pattern = (part.strip() for part in text.rpartition("=~"))
        if not separator or not command or not pattern:
            raise UsageError(
                "expectation",
                f"{text[:120]!r} is not an expectation.",
                advice="Write COMMAND =~ REGEX, for example --expect '/proc/meminfo =~ VMALLOCCHUNK'.",
            )
        return cls(command=command, pattern=pattern).checked()

    @classmethod
    def of(cls, predicate: Predicate) -> Expectation:
        """Return the expectation that a predicate shows the hole before and after, and not while the patch is live."""
        return cls(command=predicate.name, pattern="", predicate=predicate)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Expectation:
        """Return the expectation that `as_dict` wrote.

        Raises UsageError if it cannot be one, KeyError or TypeError for a document of another shape.
        """
        program = document.get("predicate")
        if program is not None:
            return cls.of(Predicate(name=program["name"], source=program["source"]).checked())
        return cls(command=document["command"], pattern=document["pattern"]).checked()

    def as_dict(self) -> dict[str, Any]:
        """Return the expectation as JSON; without a predicate it has the two keys that it always had."""
        found = asdict(self)
        if self.predicate is None:
            del found["predicate"]
        return found

    def checked(self) -> Expectation:
        """Return self; raises UsageError if a part is too long (4096 characters)."""
        if len(self.command) > 4096 or len(self.pattern) > 4096 or "\0" in self.command:
            raise UsageError(
                "expectation", "An expectation is longer than 4096 characters.", advice="Shorten it; use a file."
            )
        return self

    @property
    def shell(self) -> str:
        """The command that the guest runs; for a bare absolute file name, one that prints the file."""
        return f"cat {self.command}" if re.fullmatch(r"/[\w./+:@-]+", self.command) else self.command


def predicate_seconds(expectations: Iterable[Expectation]) -> int:
    """Return the seconds that the predicates may take together in one phase of a trial."""
    return sum(one.predicate.limits.seconds for one in expectations if one.predicate is not None)


def check_expectations(expectations: tuple[Expectation, ...]) -> tuple[Expectation, ...]:
    """Return the expectations; raises UsageError if their predicates together may take too long."""
    if predicate_seconds(expectations) > SECONDS_LIMIT:
        raise UsageError(
            "predicate",
            f"The predicates together may take more than {SECONDS_LIMIT} s in each phase of the trial.",
            advice="Give them less seconds, or send fewer of them.",
        )
    return expectations


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The output of one expectation's command in each phase; `met` if only the output of `during` matched.

    Of a predicate, `seen` has a word for each phase: `open` or `closed` for the hole, `not tried`, `too late` at its
    time limit, or its exit status. `tried` is False for one that cannot be tried in the guest.
    """

    command: str
    pattern: str
    before: str
    during: str
    after: str
    met: bool
    seen: dict[str, str] = field(default_factory=dict)
    tried: bool = True


class TrialOutcome(enum.StrEnum):
    """Outcome of a trial.

    `passed`: every object of the livepatch was live, and every step of the trial was seen. `partly`: every step was
    seen, but an object of the livepatch was not live in the guest, or a predicate could not be tried there. `failed`: a
    fault of the patch. `inconclusive`: a fault of ours, or a machine that is too slow; it says nothing about the patch.
    """

    PASSED = "passed"
    PARTLY = "partly"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotLive:
    """An object of the livepatch that was not live in the guest, and the reason: `why` completes `because ...`."""

    object: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReload:
    """A changed module that the trial unloaded and loaded again while the livepatch was live.

    `result` is `reloaded` (and patched again), `refused` (this kernel cannot load it again under a livepatch) or
    `not-tried` (it cannot be unloaded, or does not come back by itself); `words` are those of the kernel.
    """

    module: str
    result: str
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledFunction:
    """A replaced function, and the calls of its replacement while the livepatch was live, as the guest counted them.

    `calls` is None if they were not counted.
    """

    object: str
    function: str
    calls: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRun:
    """A program of the workload, and what became of it in each phase, as the guest said.

    That is `ran`, `failed`, `stopped` (at its time limit) or `not-run`; `words` are its own, or the reason.
    """

    name: str
    before: str
    during: str
    after: str
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleChange:
    """A changed module that came or went while the livepatch was live.

    `change` is `loaded-late` (for the first time while the livepatch was live), `unloaded` or `reloaded`. `result` is
    `seen` (the module was patched afterwards, or gone), `refused` (this kernel cannot do it), `not-tried`, or `failed`
    (then there is a problem); `words` give the reason.
    """

    module: str
    change: str
    result: str
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverEarlier:
    """Attempt to load the livepatch while an earlier one was live, which it replaces, as hosts do.

    `name` is the name of the earlier one, empty if the trial had none. `result` is `replaced`, `failed` (then there is
    a problem) or `not-tried`; `words` give the reason.
    """

    name: str
    result: str
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFunction:
    """A replaced function as it was seen from outside the guest.

    `redirected`: while the livepatch was live, the call at its entry went to ftrace and on to the livepatch core.
    `leads_to_new`: from there to the new function in the livepatch's module; None if the kernel has no BTF,
    which has the layout of its structures. `restored`: its entry was as before the load after the livepatch was
    disabled; None if its module was loaded again, or nothing was seen then.
    """

    object: str
    name: str
    redirected: bool
    leads_to_new: bool | None
    restored: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenOutside:
    """Result of the looks into the guest's memory from outside, while it was stopped.

    `seen` is True if the guest was looked at in each phase of a whole trial; else `why_not` completes `not seen,
    because ...`. `phases` are those of the looks. `compared_bytes` is the size of the code and the constants that each
    look compared with those before the load, `self_patched` the highest number of places there that the kernel had
    patched itself, by kind.
    """

    seen: bool
    why_not: str = ""
    phases: tuple[str, ...] = ()
    functions: tuple[SeenFunction, ...] = ()
    compared_bytes: int = 0
    self_patched: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugTrial:
    """Trial of the same series on the debugging kernel, the same source with KASAN and lockdep (docs/thorough.md).

    `kernel` is its release, empty if there is none. `outcome` is that of the trial there, None if there was none: then
    `why_not` completes `not tried there, because ...`. `functions` are those that the series replaces there. `missing`
    are functions that the livepatch replaces and the one of the debugging kernel does not. `problem` is its problem.
    """

    kernel: str
    outcome: TrialOutcome | None = None
    why_not: str = ""
    functions: tuple[CalledFunction, ...] = ()
    missing: tuple[str, ...] = ()
    problem: Problem | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    """Report on one trial in a VM. `problems` is empty if no fault was found; times are in seconds.

    `unloaded_parents` are the changed modules that could not be loaded, `not_live` all objects that were never live.
    `workload` took `workload_seconds` of `seconds`; `workload_left_out` is the reason if it did not run beside the
    livepatch, empty if it did.
    `busy_rounds` counts, for each of the guest's processors, the calls of a task that was busy on it during the first
    transition and the first transition back. `over_earlier` is None if no one looked for an earlier livepatch.
    `trouble_before` is the first line of trouble in the kernel's log before the livepatch was loaded. `debug` is None
    unless the request was for a thorough trial. All but `outside` is what the guest reported.
    """

    release: str
    build_id: str
    accelerator: str
    observations: tuple[Observation, ...]
    transition_s: float | None
    reverted: bool
    reloaded: bool
    clean_log: bool
    seconds: float
    problems: tuple[Problem, ...]
    unloaded_parents: tuple[str, ...] = ()
    not_live: tuple[NotLive, ...] = ()
    module_reloads: tuple[ModuleReload, ...] = ()
    module_changes: tuple[ModuleChange, ...] = ()
    busy_rounds: tuple[int, ...] = ()
    over_earlier: OverEarlier | None = None
    outside: SeenOutside | None = None
    functions: tuple[CalledFunction, ...] = ()
    workload: tuple[WorkloadRun, ...] = ()
    workload_seconds: float = 0.0
    workload_left_out: str = ""
    trouble_before: str = ""
    debug: DebugTrial | None = None

    @property
    def replaced(self) -> int:
        """Number of functions that the livepatch replaces, as far as they are known."""
        return len(self.functions)

    @property
    def executed(self) -> int | None:
        """Number of them whose replacement was called while the livepatch was live; None if none was counted."""
        counts = [one.calls for one in self.functions if one.calls is not None]
        return sum(calls > 0 for calls in counts) if counts else None

    @property
    def outcome(self) -> TrialOutcome:
        """The outcome; a fault of the patch that was seen counts, even if the trial could not go on."""
        if any(problem.kind is not Kind.ERROR for problem in self.problems):
            return TrialOutcome.FAILED
        if self.problems:
            return TrialOutcome.INCONCLUSIVE
        untried = any(not one.tried for one in self.observations)
        return TrialOutcome.PARTLY if self.not_live or untried else TrialOutcome.PASSED

    @property
    def problem(self) -> Problem | None:
        """The problem that decides the outcome: the first fault of the patch, else the first of ours."""
        return next((one for one in self.problems if one.kind is not Kind.ERROR), next(iter(self.problems), None))

    @property
    def passed(self) -> bool:
        """True if the outcome is `passed`: an object that was not live was not tried."""
        return self.outcome is TrialOutcome.PASSED

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self) | {
            "passed": self.passed,
            "outcome": str(self.outcome),
            "replaced": self.replaced,
            "executed": self.executed,
        }
