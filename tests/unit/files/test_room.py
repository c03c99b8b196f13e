# SPDX-License-Identifier: GPL-2.0-or-later
"""Room on a disk: refused before the work, and noticed while it goes on."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from elivepatch.files.room import RoomWatch, require_room
from elivepatch.model.errors import EnvironmentFault


def test_too_little_room_is_told_with_both_figures(tmp_path: Path) -> None:
    require_room(tmp_path / "not/made/yet", 1, "The base")
    with pytest.raises(EnvironmentFault) as caught:
        require_room(tmp_path / "not/made/yet", 1 << 60, "The base of 6.1")
    problem = caught.value.problem
    assert problem.code == "disk-room"
    assert problem.message.startswith("The base of 6.1 needs about 1099511627776 MiB")
    assert "kernel list" in problem.advice


@pytest.mark.parametrize(
    ("blocks", "inodes", "exceeded"),
    [(1 << 30, 1000, False), ((1 << 30) - 3, 1000, True), (1 << 30, 940, True), (1, 1000, True)],
)
def test_a_disk_that_fills_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, inodes: int, exceeded: bool
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1 << 30, f_frsize=1, f_favail=1000))
    watch = RoomWatch.begin(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=blocks, f_frsize=1, f_favail=inodes))
    assert watch.exceeded(limit_bytes=2, limit_files=50) is exceeded


def test_a_file_system_that_counts_no_files_is_watched_by_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1 << 30, f_frsize=1, f_favail=0))
    assert not RoomWatch.begin(tmp_path).exceeded(limit_bytes=2, limit_files=0)
