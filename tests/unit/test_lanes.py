# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lane comes to whose tests did not run: CI is not green because nothing was asked."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from elivepatch import process

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PASSES = "def test_passes():\n    pass\n"
FAILS = "def test_fails():\n    raise ValueError\n"
SKIPS = "import pytest\n\n\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_skips():\n    pass\n"
NOT_RUN = 5
FIXES = SKIPS.format(reason="the collection of real fixes is not there")
POSTGRESQL = SKIPS.format(reason="no PostgreSQL server is installed")


@pytest.mark.parametrize(
    ("tests", "ci", "status"),
    [
        (PASSES, "true", 0),
        (FIXES, "false", NOT_RUN),
        (PASSES + FIXES, "true", 0),
        (PASSES + POSTGRESQL, "false", 0),
        (PASSES + POSTGRESQL, "true", NOT_RUN),
        (FAILS + POSTGRESQL, "true", NOT_RUN),
        (FAILS + FIXES, "true", 1),
    ],
    ids=[
        "all ran",
        "none ran",
        "what may be missing",
        "a server is missing",
        "a server is missing in CI",
        "another failed beside it",
        "one failed",
    ],
)
@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["one process", "a worker"])
def test_a_lane_fails_where_it_skipped_what_it_must_run(
    tmp_path: Path, tests: str, ci: str, status: int, workers: list[str]
) -> None:
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_lane.py").write_text(tests)
    done = process.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers], cwd=tmp_path, env={"CI": ci}
    )
    assert done.status == status, done.text
    assert ("CI has to run these" in done.text) is (status == NOT_RUN and ci == "true")
