# SPDX-License-Identifier: GPL-2.0-or-later
"""The problem that people see for an exception of the server, whose database and store have exceptions of their own."""

from __future__ import annotations

import sqlalchemy as sa
from obstore.exceptions import BaseError

from elivepatch.model.errors import ElivepatchError, Problem
from elivepatch.service.db.database import is_away
from elivepatch.service.errors import (
    DATABASE_AWAY,
    DISK_FULL,
    FULL,
    STORE_AWAY,
    causes,
    is_full,
    problem_of_step,
)


def problem_of(error: Exception) -> Problem:
    """Return the problem that people see for `error`; the text of an unexpected exception is not in it."""
    if isinstance(error, ElivepatchError):
        return error.problem
    if is_disk_full(error):
        return DISK_FULL
    if isinstance(error, BaseError):
        return STORE_AWAY
    return DATABASE_AWAY if is_away(error) else problem_of_step(error)


def is_disk_full(error: BaseException) -> bool:
    """Return whether a full disk or quota is `error` or one of its causes."""
    return any(is_full(one) or _is_reported_full(one) for one in causes(error))


def _is_reported_full(error: BaseException) -> bool:
    # Neither library passes the number on: Rust writes "os error 28", SQLite a sentence of its own.
    if isinstance(error, BaseError):
        return any(f"os error {number}" in str(error) for number in FULL)
    return isinstance(error, sa.exc.OperationalError) and "disk is full" in str(error.orig)
