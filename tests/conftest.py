# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: the way to the modules of tests/support, and to those of bench/ that make kernels."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and slow at times; how long an example takes says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

sys.path[:0] = [str(Path(__file__).parent / "support"), str(Path(__file__).parents[1] / "bench")]

# What CI may lack: the collections beside the project, and what the machine's own kernel gives or not. Anything else
# (PostgreSQL, the object store, root) is installed or there, and tests that miss it prove nothing where they must run.
_MAY_BE_MISSING = ("the collection of real fixes is not there", "no control group can be made here")

# Files that take long, the longest first in each lane; the others fill the gaps between them. Without caches the first
# three build kernels.
_LONGEST = (
    "test_klp.py", "test_equal.py", "test_custom.py", "test_host_in_guest.py", "test_cve_in_guest.py",
    "test_openrc_in_guest.py", "test_trial.py", "test_build_kinds.py", "test_main_job.py", "test_rewrite.py",
    "test_cve_close.py", "test_errors_verdicts.py",
    "test_auto.py", "test_service_deaths.py", "test_service_fleet.py", "test_service_server.py",
    "test_service_load.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files as workers are to take them."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a lane in which nothing ran, and in CI one that skipped what CI has to run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # One that failed may be tried again, and then nobody would look at what was skipped beside it.
    if exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED} or reporter is None:
        return
    if exitstatus == pytest.ExitCode.OK and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
    elif os.environ.get("CI") == "true" and (missing := _skipped(reporter.stats.get("skipped", []))):
        reporter.write_line(f"\nCI has to run these, but they were skipped:\n{missing}", red=True)
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def _skipped(reports: list[pytest.TestReport]) -> str:
    reasons = {report.nodeid: str(report.longrepr) for report in reports}
    return "\n".join(
        f"{test}: {reason}" for test, reason in reasons.items() if not any(one in reason for one in _MAY_BE_MISSING)
    )
