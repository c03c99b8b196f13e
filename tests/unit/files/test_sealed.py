# SPDX-License-Identifier: GPL-2.0-or-later
"""Sealed directories: whole after publication, and not whole after any damage that a power cut can do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elivepatch.files.sealed import is_whole, publish_sealed

CONTENT = b"\x7fELF" + bytes(range(256)) * 32


def staged(directory: Path, content: bytes = CONTENT) -> Path:
    directory.mkdir()
    (directory / "object.o").write_bytes(content)
    (directory / "command").write_text("gcc -c a.c")
    return directory


def published(tmp_path: Path) -> Path:
    publish_sealed(staged(tmp_path / "staged"), tmp_path / "place")
    return tmp_path / "place"


def test_what_was_published_is_whole(tmp_path: Path) -> None:
    place = published(tmp_path)
    assert is_whole(place)
    assert (place / "object.o").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize(
    "content", [b"", CONTENT[:-1], CONTENT[:4096] + bytes(len(CONTENT) - 4096), CONTENT + b"\0", bytes(len(CONTENT))]
)
def test_a_file_that_lost_content_is_noticed(tmp_path: Path, content: bytes) -> None:
    place = published(tmp_path)
    (place / "object.o").write_bytes(content)
    assert not is_whole(place)


@pytest.mark.parametrize("seal", [b"", b"{}", b"[]", b"\0\0\0", b'{"object.o": "0"}', b'{"../x": "0"}'])
def test_a_damaged_seal_holds_for_nothing(tmp_path: Path, seal: bytes) -> None:
    place = published(tmp_path)
    (place / "seal.json").write_bytes(seal)
    assert not is_whole(place)


@pytest.mark.parametrize("name", ["object.o", "command", "seal.json"])
def test_a_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    place = published(tmp_path)
    (place / name).unlink()
    assert not is_whole(place)


def test_a_place_that_is_missing_is_not_whole(tmp_path: Path) -> None:
    assert not is_whole(tmp_path / "place")


def test_a_damaged_place_is_replaced(tmp_path: Path) -> None:
    place = published(tmp_path)
    (place / "object.o").write_bytes(b"")
    publish_sealed(staged(tmp_path / "again", b"new"), place)
    assert is_whole(place)
    assert (place / "object.o").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_the_second_of_two_that_make_the_same_finds_it_made(tmp_path: Path) -> None:
    place = published(tmp_path)
    publish_sealed(staged(tmp_path / "second", b"as good"), place)
    assert (place / "object.o").read_bytes() == CONTENT


def test_everything_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        if not (tmp_path / "place").exists():
            synced.add("before the name")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    published(tmp_path)
    assert synced >= {"object.o", "command", "seal.json", "before the name", tmp_path.name}
