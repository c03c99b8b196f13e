# SPDX-License-Identifier: GPL-2.0-or-later
"""Backup and restore of the embedded default: databases, store, key and token in one file, made while the server runs.

The order is: the engine's database, the jobs, the store. So each job in the copy has its files there, and the janitor
submits a job again if the engine's copy lacks it. With PostgreSQL use its own tools.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path, PurePosixPath

from elivepatch.files.atomic import publish_new, sync_tree
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.service.state_directory import (
    DATABASE_FILE,
    ENGINE_FILE,
    KEY_FILE,
    RECORDS_FILE,
    STORE_DIRECTORY,
    TOKEN_FILE,
    make_state_directory,
)
from elivepatch.settings import ServerSettings

_DATABASES = (ENGINE_FILE, DATABASE_FILE)
_FILES = (KEY_FILE, TOKEN_FILE, RECORDS_FILE)


def backup(settings: ServerSettings, file: Path) -> int:
    """Write the state into `file`, a tar archive of mode 0600, and return its size in bytes.

    The archive gets its name when it is complete. Raises UsageError if the state is not the embedded default or `file`
    exists, EnvironmentFault if there is no state, a database cannot be read, or the copy cannot be written.
    """
    if settings.database or settings.store:
        raise UsageError(
            "backup-shared",
            "Only the embedded default is kept in one directory.",
            advice="Use pg_dump for PostgreSQL and the object store's own tools, the database first.",
        )
    state = settings.state_dir
    if not (state / DATABASE_FILE).is_file():
        raise EnvironmentFault("backup-nothing", f"There is no state in {state}.", advice="Give --state DIR.")
    exists = UsageError("backup-exists", f"{file} exists.", advice="Give the name of a new file.")
    if file.exists():
        raise exists
    try:
        with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".backup-") as name:
            staged = Path(name)
            archive = staged / "archive"
            _write(state, staged, archive)
            if not publish_new(archive, file):
                raise exists
    except sqlite3.Error as error:
        raise _unreadable(state, error) from error
    except OSError as error:
        raise _failed(file, error) from error
    return file.stat().st_size


def restore(settings: ServerSettings, file: Path) -> None:
    """Put the state that `file` holds into the state directory, which must be empty; it stays empty on failure.

    Raises UsageError if there is a state already or `file` is no backup, EnvironmentFault if writing fails.
    """
    state = settings.state_dir
    make_state_directory(state)
    if any(state.iterdir()):
        raise UsageError(
            "restore-over",
            f"{state} is not empty.",
            advice="Move the state that is there away, or give an empty directory with --state.",
        )
    try:
        with tarfile.open(file, mode="r:") as archive:
            members = archive.getmembers()
            if DATABASE_FILE not in {member.name for member in members} or not all(map(_is_ours, members)):
                raise _no_backup(file)
            # Not extractall with a filter: Debian 12's Python is older than that.
            for member in members:
                _take(archive, member, state)
        for name in (*_DATABASES, *_FILES):
            if (state / name).exists():
                (state / name).chmod(0o600)
        sync_tree(state)
    except (tarfile.TarError, FileNotFoundError) as error:
        _empty(state)
        raise _no_backup(file) from error
    except OSError as error:
        _empty(state)
        raise _failed(state, error) from error


def _empty(state: Path) -> None:
    """Remove a half-made state, so that the command can be run again."""
    for entry in state.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink()


def _is_ours(member: tarfile.TarInfo) -> bool:
    """Return whether `_write` puts such a file into a backup: a regular file with a known name."""
    parts = PurePosixPath(member.name).parts
    known = {str(name) for name in (*_DATABASES, *_FILES)}
    return member.isfile() and (member.name in known or (parts[:1] == (STORE_DIRECTORY,) and ".." not in parts))


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, state: Path) -> None:
    content = archive.extractfile(member)
    if content is None:
        raise tarfile.TarError(member.name)
    place = state / member.name
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with place.open("xb") as file:
        shutil.copyfileobj(content, file)


def _write(state: Path, staged: Path, archive: Path) -> None:
    """Write the archive; copies of the databases are made in the directory `staged` first."""
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for name in _DATABASES:
            # A server that has never started has no engine.db: `token add` makes elivepatch.db alone.
            if (state / name).exists():
                _copy_database(state / name, staged / name)
                tar.add(staged / name, arcname=name)
        for name in _FILES:
            if (state / name).exists():
                tar.add(state / name, arcname=name)
        store = state / STORE_DIRECTORY
        for blob in sorted((store / "sha256").rglob("*")):
            # obstore writes to a temporary name first: a name that is not a digest is not complete yet.
            if blob.is_file() and len(blob.name) == 64:
                tar.add(blob, arcname=str(Path(STORE_DIRECTORY) / blob.relative_to(store)))


def _copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database that others may be writing to; raises sqlite3.Error."""
    # as_uri quotes what has a meaning in a URI: a directory's name may hold `?` or `#`.
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as opened,
        closing(sqlite3.connect(target)) as copy,
    ):
        opened.backup(copy)


def _unreadable(state: Path, error: sqlite3.Error) -> EnvironmentFault:
    return EnvironmentFault(
        "backup-failed",
        f"A database in {state} cannot be copied: {error}.",
        advice="Check that this user may read the directory; `elivepatch-server doctor` looks at its databases.",
    )


def _failed(place: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        "backup-failed",
        f"{place} cannot be written: {error.strerror}.",
        advice="Check free space and permissions there.",
    )


def _no_backup(file: Path) -> UsageError:
    return UsageError(
        "restore-file", f"{file} is no backup of a server.", advice="Give a file that `elivepatch-server backup` wrote."
    )
