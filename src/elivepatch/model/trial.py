# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trial is told to look at and what it saw."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from elivepatch.model.errors import Problem, UsageError

PHASES = ("before", "during", "after")
"""Before the livepatch is loaded, while it is enabled, after it was disabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A command of the guest's shell and a regular expression that its output matches while the livepatch is enabled.

    Before and after it must not match: that shows that the livepatch made the difference and that it is gone again.
    """

    command: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """Read `COMMAND =~ REGEX`, or `/absolute/file =~ REGEX` for a file's content.

        Raises UsageError where either side is missing or the expression does not compile.
        """
        command, separator, pattern = (part.strip() for part in text.rpartition("=~"))
        if not separator or not command or not pattern:
            raise UsageError(
                "expectation",
                f"{text[:120]!r} is not an expectation.",
                advice="Write COMMAND =~ REGEX, for example --expect '/proc/meminfo =~ VMALLOCCHUNK'.",
            )
        return cls(command=command, pattern=pattern).checked()

    def checked(self) -> Expectation:
        """Return self, or raise UsageError where the expression does not compile or a part is far too long."""
        if len(self.command) > 4096 or len(self.pattern) > 4096 or "\0" in self.command:
            raise UsageError(
                "expectation", "An expectation is longer than 4096 characters.", advice="Shorten it; use a file."
            )
        try:
            re.compile(self.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            # The latter two: one that repeats or nests more than Python's expressions can.
            raise UsageError(
                "expectation",
                f"The pattern {self.pattern[:80]!r} is not a regular expression: {error}.",
                advice="Python's syntax applies; escape characters such as ( and [ with a backslash.",
            ) from error
        return self

    @property
    def shell(self) -> str:
        """The command as the guest runs it: an absolute file name alone means its content."""
        return f"cat {self.command}" if re.fullmatch(r"/[\w./+:@-]+", self.command) else self.command


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The guest's own words for one expectation, per phase, and whether they are as expected."""

    command: str
    pattern: str
    before: str
    during: str
    after: str
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReport:
    """What the VM saw. `problems` is empty where the trial passed."""

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

    @property
    def passed(self) -> bool:
        """Whether nothing went wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self) | {"passed": self.passed}
