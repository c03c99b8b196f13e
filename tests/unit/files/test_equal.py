# SPDX-License-Identifier: GPL-2.0-or-later
"""Equal files are kept once, and only if nobody can see it; to replace or remove one changes no other."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from elivepatch.files.equal import own_bytes, share_equal_files

TIME = 946684800


def tree(directory: Path, **content: str) -> Path:
    """Make a directory; `a__b="text"` is the file a/b."""
    directory.mkdir()
    for name, text in content.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (TIME, TIME))
    return directory


def one_file(path: Path, other: Path) -> bool:
    return path.stat().st_ino == other.stat().st_ino


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return tree(tmp_path / "first", Makefile="all:", fs__a="same", fs__b="of the first")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return tree(tmp_path / "second", Makefile="all:", fs__a="same", fs__b="of another")


def test_equal_files_become_one_and_others_stay(first: Path, second: Path) -> None:
    assert share_equal_files(second, [first]) == len("all:") + len("same")
    assert one_file(first / "fs/a", second / "fs/a")
    assert one_file(first / "Makefile", second / "Makefile")
    assert not one_file(first / "fs/b", second / "fs/b")
    assert {path.name for path in second.rglob("*")} == {"Makefile", "fs", "a", "b"}
    assert share_equal_files(second, [first]) == 0, "what is shared is not shared again"


def test_a_file_that_differs_from_the_first_is_looked_for_in_the_next(
    first: Path, second: Path, tmp_path: Path
) -> None:
    third = tree(tmp_path / "third", fs__a="same", fs__b="of another")
    share_equal_files(third, [first, second])
    assert one_file(third / "fs/a", first / "fs/a")
    assert one_file(third / "fs/b", second / "fs/b")


def test_files_that_anybody_could_tell_apart_stay_apart(first: Path, second: Path) -> None:
    (second / "Makefile").chmod(0o755)
    os.utime(second / "fs/a", (TIME, TIME + 1))
    assert share_equal_files(second, [first]) == 0
    if os.geteuid() == 0:
        os.utime(second / "fs/a", (TIME, TIME))
        os.chown(second / "fs/a", 65432, 65432)
        assert share_equal_files(second, [first]) == 0


def test_a_large_file_is_compared_to_its_end(tmp_path: Path) -> None:
    text = "x" * (3 << 20)
    ours, theirs = tree(tmp_path / "1", a=text + "1", b=text), tree(tmp_path / "2", a=text + "2", b=text)
    assert share_equal_files(ours, [theirs]) == 3 << 20
    assert one_file(ours / "b", theirs / "b")


def test_neither_replacing_nor_removing_changes_the_other(first: Path, second: Path) -> None:
    share_equal_files(second, [first])
    (first / "fs/a").unlink()
    (first / "fs/a").write_text("new")
    assert (second / "fs/a").read_text() == "same"
    shutil.rmtree(first)
    assert (second / "Makefile").read_text() == "all:"


def test_links_lead_nowhere(first: Path, second: Path, tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", a="same", b="of another")
    shutil.rmtree(first / "fs")
    (first / "fs").symlink_to(outside)
    (first / "Makefile").unlink()
    (first / "Makefile").symlink_to(second / "Makefile")
    (second / "link").symlink_to(outside)
    assert share_equal_files(second, [first]) == 0
    assert share_equal_files(second, [tmp_path / "missing"]) == 0


@pytest.mark.parametrize(("number", "raised"), [(errno.EMLINK, False), (errno.ENOENT, False), (errno.EIO, True)])
def test_a_file_that_cannot_get_another_name_stays(
    first: Path, second: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    """A file system allows so many names, and the other directory may be about to be removed."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    if raised:
        with pytest.raises(OSError, match="Input/output"):
            share_equal_files(second, [first])
    else:
        assert share_equal_files(second, [first]) == 0
    assert (second / "fs/a").read_text() == "same"


def test_the_room_that_only_one_directory_takes_is_counted(tmp_path: Path) -> None:
    ours, theirs = tree(tmp_path / "1", a="x" * 100000, b="y" * 50000), tree(tmp_path / "2", a="x" * 100000)
    alone = own_bytes(ours)
    share_equal_files(ours, [theirs])
    assert 100000 <= alone - own_bytes(ours) < 110000
    assert own_bytes(ours) >= 50000
