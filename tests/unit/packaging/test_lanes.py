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
    # Plugins that no test here uses would take most of the time.
    plugins = ("-p", "no:cacheprovider", *(("-p", "xdist") if workers else ()))
    done = process.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *workers],
        cwd=tmp_path,
        env={"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.status == status, done.text
    assert ("CI has to run these" in done.text) is (status == NOT_RUN and ci == "true")


LANE = Path(__file__).parents[3] / "packaging/lane"


def lane(tmp_path: Path, status: int, **environment: str) -> tuple[int, list[str]]:
    """Run packaging/lane with programs that only record their arguments; return its status and the runs."""
    (tmp_path / "bin").mkdir()
    for name in ("pytest", "coverage"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/runs"\nexit {status}\n')
        program.chmod(0o755)
    done = process.run(["sh", LANE, tmp_path, "tests/unit", "-n", "2"], env=environment)
    return done.status, (tmp_path / "runs").read_text().splitlines()


@pytest.mark.parametrize("status", [0, 1, 5])
def test_a_lane_ends_with_the_status_of_pytest(tmp_path: Path, status: int) -> None:
    assert lane(tmp_path, status) == (status, ["pytest tests/unit -n 2"])


def test_a_measured_lane_runs_below_coverage(tmp_path: Path) -> None:
    assert lane(tmp_path, 0, MEASURE="coverage") == (0, ["coverage run -m pytest tests/unit -n 2"])


@pytest.mark.parametrize(("status", "runs"), [(0, 1), (1, 2), (5, 1)])
def test_in_ci_failed_tests_run_once_more_alone(tmp_path: Path, status: int, runs: int) -> None:
    ended, started = lane(tmp_path, status, CI="true")
    assert (ended, len(started)) == (status, runs)
    assert started[1:] == ["pytest tests/unit -n 2 -n 0 --last-failed --last-failed-no-failures none"] * (runs - 1)
