# SPDX-License-Identifier: GPL-2.0-or-later
"""Start of short commands: they load only what they need."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from elivepatch import process

HEAVY = {"fastapi", "uvicorn", "dbos", "alembic", "obstore", "pydantic", "elivepatch.build", "elivepatch.trial"}
SCRIPT = """
import json, sys
from elivepatch.service import cli
status = cli.main(sys.argv[1:])
sys.stdout.write("\\n" + json.dumps([status, sorted(sys.modules)]))
"""


@pytest.mark.parametrize("command", [["token", "list"], ["audit", "verify"]])
def test_a_short_command_loads_no_web_framework_and_no_job_engine(command: list[str], tmp_path: Path) -> None:
    argv = [sys.executable, "-c", SCRIPT, *command, "--state", str(tmp_path)]
    process.run(argv, timeout_s=60)  # makes the tables, and may load Alembic for it
    status, modules = json.loads(process.run(argv, timeout_s=60).output.splitlines()[-1])
    assert status == 0
    assert HEAVY & set(modules) == set()
