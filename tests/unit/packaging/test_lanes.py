# SPDX-License-Identifier: GPL-2.0-or-later
"""A lane whose tests did not run fails: CI is not green because nothing was tested."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from elivepatch import process

CONFTEST = Path(__file__).parents[2] / "conftest.py"
PASSES = "def test_passes():\n    pass\n"
FAILS = "def test_fails():\n    raise ValueError\n"
SKIPS = "import pytest\n\n\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_skips():\n    pass\n"
NOT_RUN = 5
FIXES = SKIPS.format(reason="the collection of real fixes is not there")
POSTGRESQL = SKIPS.format(reason="no PostgreSQL server is installed")


CASES = {
    "all ran": (PASSES, "true", 0),
    "none ran": (FIXES, "false", NOT_RUN),
    "what may be missing": (PASSES + FIXES, "true", 0),
    "a server is missing": (PASSES + POSTGRESQL, "false", 0),
    "a server is missing in CI": (PASSES + POSTGRESQL, "true", NOT_RUN),
    "another failed beside it": (FAILS + POSTGRESQL, "true", NOT_RUN),
    "one failed": (FAILS + FIXES, "true", 1),
}
WORKER, ONE_PROCESS = ("-n", "1"), ()


@pytest.mark.parametrize(
    ("case", "workers"), [*((case, WORKER) for case in CASES), ("a server is missing in CI", ONE_PROCESS)]
)
def test_a_lane_fails_where_it_skipped_what_it_must_run(tmp_path: Path, case: str, workers: tuple[str, ...]) -> None:
    tests, ci, status = CASES[case]
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_lane.py").write_text(tests)
    done = process.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers], cwd=tmp_path, env={"CI": ci}
    )
    assert done.status == status, done.text
    assert ("CI has to run these" in done.text) is (status == NOT_RUN and ci == "true")
