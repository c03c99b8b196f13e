# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory of packages, read by the machine's programs without walls (tests/kernel/test_packages.py has walls)."""

from __future__ import annotations

from pathlib import Path

import pytest
from outside import OutsideSandbox

from elivepatch.build.packages import reader as module
from elivepatch.build.packages.reader import PackageReader
from elivepatch.build.packages.tools import make_tools


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("programs") / "tools"
    make_tools(made)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The directory of packages."""
    directory = tmp_path / "store"
    directory.mkdir()
    return directory


@pytest.fixture
def reader(store: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> PackageReader:
    # pytest's directories are closed to the sandbox's user.
    monkeypatch.setattr(module, "unprivileged", list)
    return PackageReader(directory=store, helper=OutsideSandbox().sandbox, tools=tools)
