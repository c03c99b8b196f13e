# SPDX-License-Identifier: GPL-2.0-or-later
"""An exception in a step process has a problem that people can read, and costs no library to name."""

from __future__ import annotations

import errno
import json
import sys

import pytest

from elivepatch import process
from elivepatch.model.errors import UsageError
from elivepatch.service.errors import DISK_FULL, INTERNAL, problem_of_step

SCRIPT = """
import json, sys
import elivepatch.service.jobs.step_process.program, elivepatch.service.jobs.local_backend
sys.stdout.write(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_in_a_step_is_reported_as_such(number: int) -> None:
    wrapped = RuntimeError("while building")
    wrapped.__cause__ = OSError(number, "no space")
    assert problem_of_step(wrapped) is DISK_FULL


def test_an_error_of_our_own_keeps_its_problem_and_any_other_keeps_its_text_to_itself() -> None:
    error = UsageError("code", "Sentence.", advice="Advice.")
    assert problem_of_step(error) is error.problem
    assert problem_of_step(OSError(errno.EIO, "a secret")) is INTERNAL


def test_a_step_process_loads_no_library_for_the_database_the_store_or_the_web() -> None:
    modules = json.loads(process.run([sys.executable, "-c", SCRIPT], timeout_s=60).output)
    assert {"sqlalchemy", "obstore", "psycopg", "fastapi", "dbos", "alembic"} & set(modules) == set()
