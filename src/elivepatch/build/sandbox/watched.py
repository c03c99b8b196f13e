# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that unpack a stranger's archive, ended as soon as they have written more than is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from elivepatch.files.room import RoomWatch
from elivepatch.process import Cancellation, Completed

Watch = tuple[Callable[[float], None], Cancellation]
"""A function to be called while a program runs, and the switch that ends the program."""


def run_watched(
    place: Path, start: Callable[[Watch], Completed], *, limit_bytes: int, limit_files: int
) -> Completed | None:
    """Return how a program ended that fills the disk of `place`; None if it was ended at one of the limits.

    `start` runs the program with the watch.
    """
    watch, cancellation = RoomWatch.begin(place), Cancellation.new()

    def look(_seconds: float) -> None:
        if watch.exceeded(limit_bytes=limit_bytes, limit_files=limit_files):
            cancellation.event.set()

    done = start((look, cancellation))
    return None if cancellation.event.is_set() else done
