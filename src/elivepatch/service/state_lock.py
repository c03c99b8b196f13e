# SPDX-License-Identifier: GPL-2.0-or-later
"""One process per state directory: two in it would run each job twice and sweep each other's work."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elivepatch.model.errors import EnvironmentFault


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold the state directory of the lock file `file`; raises EnvironmentFault where another process does."""
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentFault(
                "state-in-use",
                f"Another server uses {file.parent}.",
                advice="Stop that one, or give this one a directory of its own with --state.",
            ) from error
        yield
