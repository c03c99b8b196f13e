# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures of files: equal while a file is unchanged, another one after each write or replacement."""

from __future__ import annotations

import os
from pathlib import Path

from elivepatch.files.atomic import write_atomic
from elivepatch.files.signature import signature_of_all, stat_signature


def test_a_file_that_is_left_alone_keeps_its_signature(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    assert stat_signature(tmp_path / "file") == stat_signature(tmp_path / "file")


def test_a_file_that_is_replaced_by_one_of_equal_size_and_time_has_another(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    before, times = stat_signature(file), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    write_atomic(file, b"two")
    os.utime(file, ns=times)
    assert stat_signature(file) != before


def test_a_file_is_settled_a_second_after_its_last_change(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    found = stat_signature(file)
    assert not found.is_settled
    assert type(found)(found.device, found.inode, 3, 0, found.changed_ns - 2_000_000_000).is_settled


def test_the_signature_of_many_changes_with_each_of_them(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    seen = [signature_of_all([one, two])]
    two.write_text("2")
    seen.append(signature_of_all([two, one]))
    assert signature_of_all([one, two]) == seen[1]
    write_atomic(one, b"1")
    seen.append(signature_of_all([one, two]))
    two.unlink()
    seen.append(signature_of_all([one, two]))
    assert len(set(seen)) == 4
