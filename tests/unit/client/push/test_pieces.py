# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces: together they are the archive of the files, and a file that changes changes few of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.client.push import pieces as module
from elivepatch.client.push.pieces import Entry, pieces

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_characters="/"), min_size=1, max_size=40)


def entries(top: Path, files: dict[str, bytes]) -> list[Entry]:
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    return [Entry(name=name, content=top / name) for name in sorted(files)]


def unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}  # type: ignore[union-attr]


@settings(max_examples=40)
@given(st.dictionaries(NAMES.filter(lambda name: name not in {".", ".."}), st.binary(max_size=3000), max_size=8))
def test_the_pieces_are_one_archive_of_all_files(files: dict[str, bytes]) -> None:
    with TemporaryDirectory() as top:
        kept = {name: content for name, content in files.items() if len(os.fsencode(name)) < 200}
        assert unpacked(b"".join(pieces(entries(Path(top), kept)))) == kept


def test_the_same_files_give_the_same_pieces_whoever_owns_them_and_whenever(tmp_path: Path) -> None:
    listed = entries(tmp_path, {"kernel/fork.c": b"x" * 1000, "Makefile": b"y"})
    first = list(pieces(listed))
    os.utime(tmp_path / "Makefile", (1, 1))
    assert list(pieces(listed)) == first


def test_a_large_file_is_cut_and_each_piece_can_be_sent_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 10_000)
    content = b"".join(hashlib.sha256(bytes([number % 256, number // 256])).digest() for number in range(1720))
    found = list(pieces(entries(tmp_path, {"vmlinux": content})))
    assert len(found) == 6
    assert all(len(gzip.decompress(piece)) <= 11_024 for piece in found)
    assert unpacked(b"".join(found)) == {"vmlinux": content}


def test_a_file_that_changes_leaves_most_pieces_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST_BYTES", 10_000)
    files = {
        f"drivers/{number:03}.c": hashlib.sha256(bytes([number % 256])).digest() * 28
        + bytes([number % 256, number // 256])
        for number in range(400)
    }
    before = set(pieces(entries(tmp_path, files)))
    after = set(pieces(entries(tmp_path, files | {"drivers/200.c": b"fixed" * 400, "drivers/0005.c": b"new"})))
    assert len(before) > 8
    assert len(after - before) <= 3


def test_links_stay_links_and_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    listed = [Entry(name=name, content=tmp_path / name) for name in ("a", "link", "pipe")]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(b"".join(pieces(listed))))) as tar:
        assert [(one.name, one.linkname) for one in tar] == [("a", ""), ("link", "a")]


def test_a_file_that_gets_shorter_while_it_is_read_ends_the_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (listed,) = entries(tmp_path, {"vmlinux": b"x" * 100})
    header = module._header(listed)
    assert header is not None
    header.size = 200
    monkeypatch.setattr(module, "_header", lambda _: header)
    with pytest.raises(OSError, match="became shorter"):
        list(pieces([listed]))
