# SPDX-License-Identifier: GPL-2.0-or-later
"""The real workshop's scratch: what a killed process left goes, what a living one uses stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

from elivepatch.service.building import BuildingWorkshop
from elivepatch.settings import ServerSettings


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    one, another = (BuildingWorkshop(ServerSettings(cache_dir=tmp_path)) for _ in range(2))
    left = tmp_path / "scratch" / "job-left"
    left.mkdir(parents=True)
    (left / "vmlinux").write_bytes(b"x")
    fresh = tmp_path / "scratch" / "job-fresh"
    fresh.mkdir()
    with one._scratch() as used:
        for directory in (left, used):
            os.utime(directory, (time.time() - 3600,) * 2)
        another.sweep()
        assert used.is_dir()
        assert not left.exists()
        assert fresh.is_dir()
    assert not used.exists()


def test_there_may_be_nothing_to_sweep(tmp_path: Path) -> None:
    BuildingWorkshop(ServerSettings(cache_dir=tmp_path)).sweep()
