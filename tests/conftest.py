# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared setup of all tests: import paths for tests/support and bench, order of files, lanes that fail if they skip."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Test machines are shared and slow at times; the duration of an example proves nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

sys.path[:0] = [str(Path(__file__).parent / "support"), str(Path(__file__).parents[1] / "bench")]

# Reasons for which CI may skip a test: the collections beside the project are missing, or the machine's kernel lacks a
# feature. Everything else (PostgreSQL, the object store, root) must be present in CI, or a green lane proves nothing.
_MAY_BE_MISSING = ("the collection of real fixes is not there", "no control group can be made here")

# Long-running files, the longest first in each lane; the others fill the gaps. With empty caches the first five build
# kernels.
_LONGEST = (
    "test_klp.py", "test_debug_kernel.py", "test_equal.py", "test_custom.py",
    "test_without_debug_information.py", "test_host_in_guest.py",
    "test_cve_in_guest.py", "test_openrc_in_guest.py", "test_trial.py", "test_build_kinds.py", "test_main_job.py",
    "test_rewrite.py", "test_cve_close.py", "test_errors_verdicts.py",
    "test_auto_killed.py", "test_auto.py", "test_service_deaths.py", "test_service_fleet.py", "test_service_server.py",
    "test_service_load.py",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_log_into_a_closed_stream() -> Iterator[None]:
    """Remove the handlers that a server's log added: they keep the stream that pytest captures, which it closes."""
    yield
    for logger in (logging.getLogger(), logging.getLogger("dbos")):
        # pytest's own handlers are of a class of their own.
        for handler in [one for one in logger.handlers if type(one) is logging.StreamHandler]:
            logger.removeHandler(handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files so that workers take the longest first."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a lane that ran no test; in CI, also fail a lane that skipped a required test."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # CI runs failed tests a second time (packaging/lane); the skipped ones must be checked in the first run.
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
