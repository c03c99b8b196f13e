# SPDX-License-Identifier: GPL-2.0-or-later
"""Publication of files: after a crash at any act, a name holds the old content or the new, never a part."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elivepatch.files.atomic import (
    create_atomic,
    publish,
    publish_new,
    set_aside,
    sync_directory,
    sync_tree,
    write_atomic,
)

OLD, NEW = b"old content\n", b"new content, longer than the old\n"


class PowerCut(BaseException):
    """The end of the machine: nothing catches it."""


class Acts:
    """Records the acts on the file system in their order, and ends the machine before a chosen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.cut_before = -1
        for name in ("fsync", "replace", "rename", "link"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Any) -> Any:
        def act(*args: Any, **keywords: Any) -> Any:
            if len(self.names) == self.cut_before:
                raise PowerCut
            what = "directory" if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode) else ""
            self.names.append(f"{name} {what}".strip())
            return real(*args, **keywords)

        return act


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Acts]:
    with monkeypatch.context() as patched:
        yield Acts(patched)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_written_file_has_the_content_and_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, OLD)
    write_atomic(path, NEW, mode=0o600)
    assert path.read_bytes() == NEW
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_return(tmp_path: Path, acts: Acts) -> None:
    write_atomic(tmp_path / "file", NEW)
    assert acts.names == ["fsync", "replace", "fsync directory"]


def test_a_created_file_reaches_the_disk_in_the_same_order(tmp_path: Path, acts: Acts) -> None:
    assert create_atomic(tmp_path / "file", NEW)
    assert acts.names == ["fsync", "link", "fsync directory"]


@pytest.mark.parametrize("act", range(3))
def test_a_power_cut_before_any_act_of_a_write_leaves_the_old_content_or_the_new(
    tmp_path: Path, acts: Acts, act: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    acts.cut_before = act
    with pytest.raises(PowerCut):
        write_atomic(path, NEW)
    assert path.read_bytes() == (OLD if act < 2 else NEW)
    acts.cut_before = -1
    write_atomic(path, NEW)
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("act", range(3))
def test_a_power_cut_before_any_act_of_a_creation_leaves_no_file_or_a_whole_one(
    tmp_path: Path, acts: Acts, act: int
) -> None:
    path = tmp_path / "file"
    acts.cut_before = act
    with pytest.raises(PowerCut):
        create_atomic(path, NEW)
    assert path.exists() is (act == 2)
    acts.cut_before = -1
    assert create_atomic(path, NEW) is (act < 2)
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("act", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def full(*args: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, act, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, NEW)
    assert (path.read_bytes(), names(tmp_path)) == (OLD, ["file"])


@pytest.mark.parametrize("act", ["fsync", "link"])
def test_a_creation_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    def full(*args: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, act, full)
    with pytest.raises(OSError, match="No space left"):
        create_atomic(tmp_path / "file", NEW)
    assert names(tmp_path) == []


def test_a_symbolic_link_at_the_target_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(OLD)
    path.symlink_to(victim)
    write_atomic(path, NEW)
    assert not path.is_symlink()
    assert (path.read_bytes(), victim.read_bytes()) == (NEW, OLD)


def test_a_symbolic_link_at_the_target_counts_as_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.symlink_to(tmp_path / "nowhere")
    assert create_atomic(path, NEW) is False
    assert names(tmp_path) == ["file"]


def test_an_existing_file_is_not_created_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    assert create_atomic(path, NEW) is False
    assert (path.read_bytes(), names(tmp_path)) == (OLD, ["file"])


def test_of_several_creators_exactly_one_makes_the_file(tmp_path: Path) -> None:
    path, start = tmp_path / "file", threading.Barrier(8)
    made: dict[int, bool] = {}

    def create(number: int) -> None:
        start.wait()
        made[number] = create_atomic(path, b"%d" % number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made.values()) == [False] * 7 + [True]
    assert made[int(path.read_bytes())]
    assert names(tmp_path) == ["file"]


def test_a_published_directory_is_on_the_disk_before_it_has_its_name(tmp_path: Path, acts: Acts) -> None:
    staged = tmp_path / "staged"
    (staged / "deep").mkdir(parents=True)
    (staged / "deep" / "file").write_bytes(NEW)
    (staged / "link").symlink_to("nowhere")
    publish(staged, tmp_path / "place")
    assert (tmp_path / "place" / "deep" / "file").read_bytes() == NEW
    assert acts.names == ["fsync directory", "fsync", "fsync directory", "rename", "fsync directory"]


def test_a_published_file_replaces_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "staged").write_bytes(NEW)
    (tmp_path / "place").write_bytes(OLD)
    publish(tmp_path / "staged", tmp_path / "place")
    assert names(tmp_path) == ["place"]
    assert (tmp_path / "place").read_bytes() == NEW


def test_a_directory_with_content_is_not_replaced(tmp_path: Path) -> None:
    for name in ("staged", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path / "staged", tmp_path / "place")
    assert (tmp_path / "place" / "file").read_text() == "place"


def test_what_is_set_aside_is_gone_from_its_place_at_once(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    set_aside(tmp_path / "place", tmp_path / ".doomed")
    assert names(tmp_path) == [".doomed"]


def test_no_link_and_no_pipe_is_opened_while_a_tree_is_synced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    sync_tree(tmp_path)
    sync_tree(tmp_path / "link")


def test_a_missing_directory_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        sync_directory(tmp_path / "missing")


def test_a_file_is_published_under_a_new_name_only(tmp_path: Path) -> None:
    staged, place = tmp_path / "staged", tmp_path / "place"
    staged.write_bytes(b"one")
    assert publish_new(staged, place)
    staged.unlink()
    staged.write_bytes(b"two")
    assert not publish_new(staged, place)
    assert place.read_bytes() == b"one"
