# SPDX-License-Identifier: GPL-2.0-or-later
"""Reader of tar archives from a stream; nothing is written to disk and every size is bounded.

The standard library's reader is not used because it allocates as much memory as a header claims. The formats are those
of POSIX (pax, "pax Interchange Format") and GNU tar ("Basic Tar Format").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from elivepatch.advisory.readers.compressed import DamagedArchive, Readable

_BLOCK = 512
_EXTENSION_MAX = 64 * 1024  # of a long name or a pax header; names in the CVE list have 40 characters
_SKIP_BYTES = 1024 * 1024
_REGULAR = {b"0", b"\0", b"7"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member. `content` is empty unless it is a regular file, None for one larger than the limit.

    `modified` is the time of its last change in seconds since 1970, 0 if it is not known.
    """

    name: str
    regular: bool
    content: bytes | None
    modified: int = 0


def tar_members(stream: Readable, *, wanted_bytes: int) -> Iterator[Member]:
    """Give every member in the order of the archive, with the content of regular files up to `wanted_bytes`.

    Links, devices and directories are given by name only. Raises DamagedArchive for a file of another kind, for one
    that ends early, and for extended headers of more than 64 KiB.
    """
    name = ""
    size_given: int | None = None
    while True:
        header = stream.read(_BLOCK)
        if header and not header.strip(b"\0"):
            return
        kind, header_name, size = _read_header(header)
        if kind in {b"L", b"x", b"X"}:
            body = _extension(stream, size)
            if kind == b"L":
                name = body.rstrip(b"\0").decode(errors="replace")
            else:
                name, size_given = _read_pax(body, name, size_given)
            continue
        size = size if size_given is None else size_given
        regular = kind in _REGULAR and not (name or header_name).endswith("/")
        content: bytes | None = b""
        if regular and size <= wanted_bytes:
            content = _exactly(stream, size)
            _skip(stream, -size % _BLOCK)
        else:
            content = None if regular else b""
            _skip(stream, size + -size % _BLOCK)
        if kind not in {b"g", b"K"}:  # a description of all members, or the target of a link
            yield Member(name=name or header_name, regular=regular, content=content, modified=_modified(header))
            name, size_given = "", None


def _read_header(header: bytes) -> tuple[bytes, str, int]:
    """Return a header's type, name and size in bytes."""
    if len(header) < _BLOCK:
        raise DamagedArchive(why="it ends in the middle")
    stored = _number(header[148:156])
    if stored != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise DamagedArchive(why="it is not a tar archive, or a header of it is damaged")
    name = header[:100].split(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345] != 0:
        name = header[345:500].split(b"\0")[0] + b"/" + name
    kind = header[156:157]
    size = _number(header[124:136])
    # POSIX: links, directories and devices carry no data; their size field does not count.
    return kind, name.decode(errors="replace"), 0 if kind in {b"1", b"2", b"3", b"4", b"5", b"6"} else size


def _modified(header: bytes) -> int:
    """Return the time of a member's last change, 0 for one that cannot be read: nothing else depends on it."""
    try:
        return _number(header[136:148])
    except DamagedArchive:
        return 0


def _number(field: bytes) -> int:
    """Return an octal field, or GNU's base-256 if the first bit is set."""
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
        if field[0] & 0x40:
            raise DamagedArchive(why="a header of it has a negative size")
        return number
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise DamagedArchive(why="it is not a tar archive, or a header of it is damaged") from error


def _extension(stream: Readable, size: int) -> bytes:
    if size > _EXTENSION_MAX:
        raise DamagedArchive(why=f"an extended header of it has {size} bytes")
    body = _exactly(stream, size)
    _skip(stream, -size % _BLOCK)
    return body


def _read_pax(body: bytes, name: str, size: int | None) -> tuple[str, int | None]:
    """Return the name and the size that a pax header gives the next member, the given ones if it has none."""
    rest = body
    while rest:
        length_text, space, _ = rest[:20].partition(b" ")
        length = int(length_text) if length_text.isdigit() and space else 0
        if not len(length_text) + 3 <= length <= len(rest):
            raise DamagedArchive(why="an extended header of it is damaged")
        keyword, _, value = rest[len(length_text) + 1 : length - 1].partition(b"=")
        if keyword == b"path":
            name = value.decode(errors="replace")
        elif keyword == b"size":
            if not (value.isdigit() and len(value) <= 20):
                raise DamagedArchive(why="an extended header of it is damaged")
            size = int(value)
        rest = rest[length:]
    return name, size


def _exactly(stream: Readable, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise DamagedArchive(why="it ends in the middle")
    return content


def _skip(stream: Readable, size: int) -> None:
    while size > 0:
        piece = stream.read(min(size, _SKIP_BYTES))
        if not piece:
            raise DamagedArchive(why="it ends in the middle")
        size -= len(piece)
