# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that somebody else puts in place are read if they are regular and small enough, and never wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elivepatch.files.bounded import Unusable, read_regular


def code(path: Path, limit: int = 1024) -> str:
    found = read_regular(path, limit)
    assert isinstance(found, Unusable)
    assert found.why.endswith(".")
    return found.code


@pytest.mark.parametrize("size", [0, 1, 1023, 1024])
def test_a_regular_file_up_to_the_limit_is_returned_with_its_time(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert read_regular(path, 1024) == (b"x" * size, 1_000_000_000.0)


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1025)
    assert code(tmp_path / "file") == "too-large"


def test_a_file_that_never_ends_is_read_up_to_the_limit_only() -> None:
    assert code(Path("/dev/zero")) == "not-a-file"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("secret")
    (tmp_path / "link").symlink_to("target")
    assert code(tmp_path / "link") == "unreadable"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert code(tmp_path / "pipe") == "not-a-file"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert code(tmp_path) == "not-a-file"


def test_a_missing_file_is_a_value_and_no_exception(tmp_path: Path) -> None:
    assert code(tmp_path / "missing") == "unreadable"
