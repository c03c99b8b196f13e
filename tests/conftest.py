# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: the way to the modules of tests/support, and to those of bench/ that make kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and slow at times; how long an example takes says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

sys.path[:0] = [str(Path(__file__).parent / "support"), str(Path(__file__).parents[1] / "bench")]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a lane in which nothing ran: skipping everything proves nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == pytest.ExitCode.OK and reporter is not None and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
