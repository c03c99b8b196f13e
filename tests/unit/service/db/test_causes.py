# SPDX-License-Identifier: GPL-2.0-or-later
"""A full disk is reported as such from every library; an unexpected error keeps its words."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from obstore.exceptions import GenericError

from elivepatch.model.errors import UsageError
from elivepatch.service.db.causes import is_disk_full, problem_of
from elivepatch.service.db.database import open_database, sqlite_url
from elivepatch.service.errors import DISK_FULL, INTERNAL
from elivepatch.service.store import Store

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    GenericError("Unable to write: No space left on device (os error 28)"),
    sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full")),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_a_full_disk_wherever_it_shows(error: Exception) -> None:
    assert problem_of(error) is DISK_FULL
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = error
    assert is_disk_full(wrapped)


@pytest.mark.parametrize("error", [KeyError("a secret"), OSError(errno.EIO, "a secret"), RecursionError()])
def test_what_nobody_expected_is_an_internal_error_without_its_words(error: Exception) -> None:
    assert problem_of(error) is INTERNAL


def test_our_own_errors_say_what_they_say() -> None:
    error = UsageError("code", "Sentence.", advice="Advice.")
    assert problem_of(error) is error.problem


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_system_itself_says_it_as_we_read_it() -> None:
    with pytest.raises(OSError) as met, Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    assert is_disk_full(met.value)


def test_sqlite_says_it_as_we_read_it(tmp_path: Path) -> None:
    engine = open_database(sqlite_url(tmp_path / "db"))
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
        connection.exec_driver_sql("PRAGMA max_page_count = 4")
        with pytest.raises(sa.exc.OperationalError) as met:
            connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(1000000))")
    engine.dispose()
    assert is_disk_full(met.value)


def test_a_missing_file_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError) as met:
        (tmp_path / "none").read_bytes()
    assert not is_disk_full(met.value)
    assert Store.in_directory(tmp_path).put(b"x")
