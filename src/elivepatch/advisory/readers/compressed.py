# SPDX-License-Identifier: GPL-2.0-or-later
"""Compressed files as streams that are read piece by piece and cannot grow without bound."""

from __future__ import annotations

import gzip
import lzma
import zlib
from typing import IO, Protocol

XZ_MAGIC = b"\xfd7zXZ\x00"
GZIP_MAGIC = b"\x1f\x8b"

_INPUT_BYTES = 256 * 1024
_XZ_MEMORY_BYTES = 256 * 1024 * 1024  # the strongest preset of xz needs 65 MiB to unpack


class DamagedArchive(Exception):
    """The archive cannot be read on; `why` completes "because"."""

    def __init__(self, *, why: str) -> None:
        super().__init__(why)
        self.why = why


class Readable(Protocol):
    """A file, as far as the readers of archives need it."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""


class _Xz:
    """An xz file, several streams in a row allowed, with a limit on the memory its header may ask for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)

    def read(self, size: int, /) -> bytes:
        while True:
            data = b""
            if self._inner.eof:
                data = self._inner.unused_data.lstrip(b"\0") or self._file.read(_INPUT_BYTES).lstrip(b"\0")
                if not data:
                    return b""
                self._inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
            elif self._inner.needs_input:
                data = self._file.read(_INPUT_BYTES)
                if not data:
                    raise EOFError
            piece = self._inner.decompress(data, size)
            if piece:
                return piece


class Unpacked:
    """The unpacked bytes of a file that is xz, gzip or not compressed at all."""

    def __init__(self, file: IO[bytes], *, limit: int) -> None:
        """Start at the file's beginning; at most `limit` bytes are handed out."""
        magic = file.read(len(XZ_MAGIC))
        file.seek(0)
        self._limit = self._left = limit
        self._inner: Readable = file
        if magic == XZ_MAGIC:
            self._inner = _Xz(file)
        elif magic.startswith(GZIP_MAGIC):
            self._inner = gzip.GzipFile(fileobj=file, mode="rb")

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, fewer at the end.

        Raises DamagedArchive if the compressed data is broken, or unpacks to more than the limit.
        """
        pieces = []
        while size > 0:
            try:
                piece = self._inner.read(size)
            except (lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
                raise DamagedArchive(why=f"its compressed data is broken ({error})") from error
            except EOFError as error:
                raise DamagedArchive(why="it ends in the middle") from error
            if not piece:
                break
            self._left -= len(piece)
            if self._left < 0:
                raise DamagedArchive(why=f"it unpacks to more than {self._limit // 2**20} MiB")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)
