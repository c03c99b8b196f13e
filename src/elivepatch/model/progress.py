# SPDX-License-Identifier: GPL-2.0-or-later
"""How long work tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. `stage` is a short stable word, `message` is for people.

    `fraction` is how much of the stage is done (0 to 1), None where that cannot be known.
    """

    stage: str
    message: str
    fraction: float | None = None

    def as_dict(self) -> dict[str, str | float | None]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self)


Progress = Callable[[Event], None]
"""Called for every event, from the thread that does the work."""


def silent(event: Event) -> None:
    """Take an event and do nothing with it."""
