# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's state directory: the names of the files in it, and the lock that one process at a time holds.

Nothing here imports the job engine, the web framework or the object store: short commands need the names only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elivepatch.files.lock import Locked, exclusive_lock
from elivepatch.model.errors import EnvironmentFault

DATABASE_FILE = "elivepatch.db"
ENGINE_FILE = "engine.db"
STORE_DIRECTORY = "store"
WORK_DIRECTORY = "work"
KEY_FILE = "signing.key"
RECORDS_FILE = "records.idx"
TOKEN_FILE = "operator.token"  # noqa: S105 - a file's name

_LOCK_FILE = "server.lock"


def make_state_directory(directory: Path) -> None:
    """Make the state directory, readable by the server's user only.

    Raises EnvironmentFault with the code `state-directory` if that fails.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # It holds people's patches, which may describe holes that are not public yet, and the digests of tokens.
        directory.chmod(0o700)
    except OSError as error:
        raise EnvironmentFault(
            "state-directory",
            f"{directory} cannot be made the server's own: {error.strerror}.",
            advice="Give a directory that this user may write with --state.",
        ) from error


@contextmanager
def state_lock(directory: Path) -> Iterator[None]:
    """Hold the state directory: two processes in it would run each job twice and delete each other's work files.

    Raises EnvironmentFault with the code `state-in-use` if another process holds it.
    """
    try:
        with exclusive_lock(directory / _LOCK_FILE):
            yield
    except Locked as error:
        raise EnvironmentFault(
            "state-in-use",
            f"Another server uses {directory}.",
            advice="Stop that one, or give this one a directory of its own with --state.",
        ) from error
