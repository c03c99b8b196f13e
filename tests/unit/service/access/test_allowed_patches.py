# SPDX-License-Identifier: GPL-2.0-or-later
"""Allowed patches: a change of the directory is seen, a file that did not change is read once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from elivepatch.files.digest import sha256
from elivepatch.files.signature import stat_signature
from elivepatch.model.errors import TrustError
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.access import allowed_patches
from elivepatch.service.access.allowed_patches import AllowedPatches


def is_allowed(patches: AllowedPatches, content: bytes) -> bool:
    try:
        patches.check(PatchSeries((SourcePatch("fix.patch", content),)))
    except TrustError:
        return False
    return True


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Contents that were hashed, while the directory is listed for each question."""
    seen: list[bytes] = []

    def counted(content: bytes) -> str:
        seen.append(content)
        return sha256(content)

    monkeypatch.setattr(allowed_patches, "sha256", counted)
    monkeypatch.setattr(allowed_patches, "_FRESH_S", -1.0)
    return seen


def test_a_patch_is_read_again_only_after_a_change(
    tmp_path: Path, hashed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.patch", "b.diff", "c.txt"):
        (tmp_path / name).write_text(name)
    later = time.time_ns() + 10**10
    monkeypatch.setattr("time.time_ns", lambda: later)
    patches = AllowedPatches(str(tmp_path))
    assert is_allowed(patches, b"a.patch")
    assert not is_allowed(patches, b"c.txt")
    assert sorted(hashed) == [b"a.patch", b"b.diff"]
    (tmp_path / "a.patch").write_text("A.PATCH")
    (tmp_path / "b.diff").unlink()
    assert is_allowed(patches, b"A.PATCH")
    assert not is_allowed(patches, b"a.patch")
    assert not is_allowed(patches, b"b.diff")
    assert hashed[2:] == [b"A.PATCH"]


def test_a_file_that_changes_twice_within_a_tick_of_the_clock_is_not_trusted_by_its_old_bytes(
    tmp_path: Path, hashed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fix.patch"
    file.write_bytes(b"good")
    patches, found = AllowedPatches(str(tmp_path)), stat_signature(file)
    assert is_allowed(patches, b"good")
    file.write_bytes(b"evil")
    os.utime(file)
    monkeypatch.setattr(allowed_patches, "stat_signature", lambda _: found)
    assert not is_allowed(patches, b"good")
    assert len(hashed) == 2
