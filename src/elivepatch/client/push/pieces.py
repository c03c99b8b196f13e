# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of an archive, each sent once: files become members of a tar archive, cut into pieces named by their digest.

Each piece is a member of a gzip stream (RFC 1952, §2.2), so the pieces of an archive, one behind the other, are that
archive in compressed form. The cuts depend on names and sizes: a file that changed changes its own piece and no other,
so a second push, after an update or a cut connection, sends little.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 8 << 20
"""Size of a piece before it is compressed; no piece is larger."""

_LEAST_BYTES = 1 << 20
_LEVEL = 6
# Of sixteen names, one may end a piece.
_CUTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file or symbolic link of an archive: its name there, and its place on this machine, or its content."""

    name: str
    content: Path | bytes


def pieces(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield the pieces of the archive of `entries`, in order; the same files give the same pieces.

    Owners and times are left out; what is neither a file nor a link is passed over. Raises OSError if a file cannot be
    read.
    """
    held = bytearray()
    for entry in entries:
        header = _header(entry)
        if header is None:
            continue
        if len(held) >= _LEAST_BYTES and _ends_piece(entry.name):
            yield _compressed(held)
            held = bytearray()
        held += header.tobuf(tarfile.GNU_FORMAT)
        if not header.isfile():
            continue
        for part in _content(entry.content, header.size):
            held += part
            while len(held) >= PIECE_BYTES:
                yield _compressed(held[:PIECE_BYTES])
                del held[:PIECE_BYTES]
        held += b"\0" * (-header.size % tarfile.BLOCKSIZE)
    yield _compressed(held + b"\0" * (2 * tarfile.BLOCKSIZE))


def _header(entry: Entry) -> tarfile.TarInfo | None:
    header = tarfile.TarInfo(entry.name)
    if isinstance(entry.content, bytes):
        header.size = len(entry.content)
        return header
    status = entry.content.lstat()
    header.mode = 0o755 if status.st_mode & 0o100 else 0o644
    if entry.content.is_symlink():
        header.type, header.linkname = tarfile.SYMTYPE, os.fsdecode(entry.content.readlink())
    elif entry.content.is_file():
        header.size = status.st_size
    else:
        return None
    return header


def _content(place: Path | bytes, size: int) -> Iterator[bytes]:
    """Yield exactly `size` bytes: the header has named that size already."""
    if isinstance(place, bytes):
        yield place
        return
    left = size
    with place.open("rb") as file:
        while left and (part := file.read(min(left, 1 << 20))):
            left -= len(part)
            yield part
    if left:
        message = f"{place} became shorter while it was read"
        raise OSError(message)


def _ends_piece(name: str) -> bool:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()[0] % _CUTS == 0


def _compressed(data: bytes | bytearray) -> bytes:
    return gzip.compress(data, compresslevel=_LEVEL, mtime=0)
