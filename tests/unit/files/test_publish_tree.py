# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishing large directories: everything reaches the disk before the name does."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.files import atomic


def test_a_tree_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "staged/deep").mkdir(parents=True)
    (tmp_path / "staged/deep/file").write_text("content")
    order: list[str] = []
    real = atomic.sync_filesystem

    def sync_filesystem(path: Path) -> None:
        assert (path / "deep/file").exists()
        assert not (tmp_path / "place").exists()
        order.append("content")
        real(path)

    def sync_directory(path: Path) -> None:
        assert (tmp_path / "place").exists()
        assert path == tmp_path
        order.append("name")

    monkeypatch.setattr(atomic, "sync_filesystem", sync_filesystem)
    monkeypatch.setattr(atomic, "sync_directory", sync_directory)
    atomic.publish_tree(tmp_path / "staged", tmp_path / "place")
    assert order == ["content", "name"]
    assert (tmp_path / "place/deep/file").read_text() == "content"


def test_a_file_system_that_cannot_be_synced_stops_the_publication(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic.publish_tree(tmp_path / "missing", tmp_path / "place")
    assert not (tmp_path / "place").exists()


def test_a_move_is_a_rename(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("x")
    atomic.move(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "other").read_text() == "x"
    assert not (tmp_path / "one").exists()
