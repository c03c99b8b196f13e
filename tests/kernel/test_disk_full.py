# SPDX-License-Identifier: GPL-2.0-or-later
"""A full disk is the server's problem: it is never reported as a fault of the patch, and a second try works."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.process import run
from elivepatch.service.db.causes import problem_of
from elivepatch.service.jobs.local_backend import LocalBackend

PATCH = (Path(__file__).parents[2] / "demo/patches/vmlinux-meminfo.patch").read_bytes()


@pytest.fixture
def small_disk(reachable_path: Path) -> Iterator[Path]:
    """A file system of a quarter megabyte: less than one object with debug information."""
    run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs", reachable_path]).check("Mounting a small disk")
    yield reachable_path
    run(["umount", reachable_path]).check("Unmounting the small disk")


def _build(base: Base, backend: LocalBackend, work_dir: Path) -> object:
    work_dir.mkdir()
    builder = ObjectsBuilder(base=base, toolchains=backend.toolchains, jobs=2)
    return builder.build(PatchSeries((SourcePatch("a.patch", PATCH),)), name="livepatch_full", work_dir=work_dir).module


def test_a_full_disk_is_an_error_of_the_server_and_no_verdict(
    base_6_1: Base, backend: LocalBackend, small_disk: Path
) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        _build(base_6_1, backend, small_disk / "work")
    assert caught.value.errno == errno.ENOSPC
    assert problem_of(caught.value).code == "disk-full"


def test_the_same_series_builds_once_there_is_room(base_6_1: Base, backend: LocalBackend, reachable_path: Path) -> None:
    assert _build(base_6_1, backend, reachable_path / "work") is not None
