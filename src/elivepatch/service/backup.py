# SPDX-License-Identifier: GPL-2.0-or-later
"""Backup and restore of the embedded default: databases, store, key and token in one file, made while the server runs.

The execution is copied before the jobs, and both before the store: a job that is in the copy has its files there, and
one whose execution is missing is handed over again by the janitor. With PostgreSQL its own tools do this.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path, PurePosixPath

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

    Raises UsageError where the state is not the embedded default or `file` exists, EnvironmentFault where there is no
    state, or no room for its copy.
    """
    if settings.database or settings.store:
        raise UsageError(
            "backup-shared",
            "Only the embedded default is kept in one directory.",
            advice="Use pg_dump for PostgreSQL and the object store's own means, the database first.",
        )
    state = settings.state_dir
    if not (state / DATABASE_FILE).is_file():
        raise EnvironmentFault("backup-nothing", f"There is no state in {state}.", advice="Give --state DIR.")
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError("backup-exists", f"{file} exists.", advice="Give a new file's name.") from error
    except OSError as error:
        raise _failed(file, error) from error
    try:
        with os.fdopen(descriptor, "wb") as stream, tempfile.TemporaryDirectory(dir=file.absolute().parent) as staged:
            _write(state, Path(staged), tarfile.open(fileobj=stream, mode="w|"))  # noqa: SIM115 - closed in _write
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        file.unlink(missing_ok=True)
        raise _failed(file, error) from error
    return file.stat().st_size


def restore(settings: ServerSettings, file: Path) -> None:
    """Put the state that `file` holds into the state directory, which must not have one.

    Raises UsageError where there is a state already or `file` is no backup, EnvironmentFault where writing fails.
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
            names = {member.name for member in members}
            if not names >= {DATABASE_FILE, ENGINE_FILE, KEY_FILE} or not all(map(_is_ours, members)):
                raise _no_backup(file)
            # Not extractall with a filter: Debian 12's Python is older than that.
            for member in members:
                _take(archive, member, state)
    except (tarfile.TarError, FileNotFoundError) as error:
        raise _no_backup(file) from error
    except OSError as error:
        raise _failed(state, error) from error
    for name in (*_DATABASES, *_FILES):
        if (state / name).exists():
            (state / name).chmod(0o600)


def _is_ours(member: tarfile.TarInfo) -> bool:
    """Whether `_write` puts such a file into a backup: a plain one, at a place of ours."""
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


def _write(state: Path, staged: Path, archive: tarfile.TarFile) -> None:
    with archive:
        for name in _DATABASES:
            with (
                closing(sqlite3.connect(f"file:{state / name}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(staged / name)) as copy,
            ):
                source.backup(copy)
            archive.add(staged / name, arcname=name)
        for name in _FILES:
            if (state / name).exists():
                archive.add(state / name, arcname=name)
        store = state / STORE_DIRECTORY
        # Not the uploads beside them: jobs have copies of those that they named, and they are gone in a day.
        for blob in sorted((store / "sha256").rglob("*")):
            # obstore writes under another name first: what has no digest's name is not whole yet.
            if blob.is_file() and len(blob.name) == 64:
                archive.add(blob, arcname=str(Path(STORE_DIRECTORY) / blob.relative_to(store)))


def _failed(place: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        "backup-failed",
        f"{place} cannot be written: {error.strerror}.",
        advice="Look after room and permissions there.",
    )


def _no_backup(file: Path) -> UsageError:
    return UsageError(
        "restore-file", f"{file} is no backup of a server.", advice="Give a file that `elivepatch-server backup` wrote."
    )
