# SPDX-License-Identifier: GPL-2.0-or-later
"""Databases with many finished jobs, made in seconds by copying one that a server has really done."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from elivepatch.service.db.tables import builds

# A report of a real build, with its checks and its trial, has about this size more than one of the fake backend.
_MORE_REPORT_BYTES = 3000


def add_done_jobs(database: Path, job: str, count: int) -> None:
    """Copy the finished job with the id `job` `count` times, each with its own id and keys.

    `database` is the SQLite file of a server that is not running.
    """
    changed = {
        "id": "printf('%016x', n)",
        "job_key": "printf('%064x', n)",
        "build_key": "printf('%064x', n)",
        "report": f"json_set(report, '$.padding', hex(zeroblob({_MORE_REPORT_BYTES // 2})))",
    }
    columns = [column.name for column in builds.columns if column.name != "number"]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            f"INSERT INTO builds ({', '.join(columns)}) "  # noqa: S608 - names of our own columns
            "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < ?) "
            f"SELECT {', '.join(changed.get(column, column) for column in columns)} "
            "FROM counted, (SELECT * FROM builds WHERE id = ?)",
            (count, job),
        )
