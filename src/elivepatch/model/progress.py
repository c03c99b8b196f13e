# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress events of work that takes long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step of the work. `stage` is a short stable word, `message` is for people.

    `fraction` is the part of the stage that is done (0 to 1), None if it is not known.
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
    """Drop the event."""
