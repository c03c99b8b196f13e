# SPDX-License-Identifier: GPL-2.0-or-later
"""Query plans of the statements that a piece of code sends to a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa


class Recorder:
    """Statements sent to a database, with their parameters."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        self.statements: list[tuple[str, Any]] = []

    def plans(self) -> list[str]:
        """Return the plan of each recorded statement, one text each."""
        sqlite = self._database.dialect.name == "sqlite"
        found = []
        with self._database.connect() as connection:
            if not sqlite:
                # PostgreSQL scans small tables even if an index fits: ask for the plan of large tables.
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            for statement, parameters in self.statements:
                explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).all()
                found.append("\n".join(str(row[-1]) for row in rows))
        return found


@contextmanager
def recorded(database: sa.Engine) -> Iterator[Recorder]:
    """Record the statements of the block."""
    recorder = Recorder(database)

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}:
            recorder.statements.append((statement, parameters))

    sa.event.listen(database, "before_cursor_execute", record)
    try:
        yield recorder
    finally:
        sa.event.remove(database, "before_cursor_execute", record)
