# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of an archive of records, tar or zip by its first bytes, read one at a time."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from elivepatch.advisory.readers.compressed import DamagedArchive, Unpacked
from elivepatch.advisory.readers.tar import Member, tar_members
from elivepatch.advisory.records.record import Findings
from elivepatch.model.errors import UsageError

RECORD_FILE_MAX = 1024 * 1024
"""Bytes of one record's file that are read; the largest of the list have less than 100 KiB."""

TOTAL_MAX = 4 * 1024**3
"""Bytes an archive may unpack to; the whole list with its mails is below 0.5 GiB."""

_DIRECTORY_MAX = 64 * 1024**2  # of a zip's table of contents: 100 bytes for each of the list's 100,000 files, and room
# zipfile unpacks these piece by piece. It unpacks all that it has read of bzip2 and LZMA: half a GiB from 600 bytes.
_BOUNDED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 1  # APPNOTE.TXT 4.4.4, bit 0 of a member's flags
_END = struct.Struct("<4s4H2LH")  # APPNOTE.TXT 4.3.16, end of central directory record
_END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14, its zip64 form
_LOCATOR = struct.Struct("<4sLQL")  # 4.3.15, stands between the two


def archive_files(
    archive: Path,
    findings: Findings,
    *,
    wanted: Callable[[str], bool],
    total_max: int = TOTAL_MAX,
    modified: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[str, bytes]]:
    """Give name and content of every wanted regular file in `archive`; others go to `findings`.

    `modified` is called with the time of the last change of each, in seconds since 1970.

    Nothing is unpacked to disk, and at most one member is in memory. Members that a name leads outside, and wanted ones
    that are links or larger than RECORD_FILE_MAX, go to `findings`. Raises UsageError if the archive cannot be read to
    its end: half of the list would look like all of it.
    """
    try:
        with archive.open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            members = _zip_members(file, total_max, wanted) if is_zip else _tar_members(file, total_max)
            for member in members:
                if outside(member.name):
                    findings.add("outside-path", member.name, "Its name leads outside of the archive.")
                elif not wanted(member.name):
                    continue
                elif not member.regular:
                    findings.add("not-a-file", member.name, "It is a link, a directory or a device.")
                elif member.content is None:
                    findings.add("too-large", member.name, f"It is larger than {RECORD_FILE_MAX // 1024} KiB.")
                else:
                    modified(member.modified)
                    yield member.name, member.content
    except OSError as error:
        raise _unreadable(archive, error.strerror or "it cannot be read") from error
    except DamagedArchive as error:
        raise _unreadable(archive, error.why) from error


def outside(name: str) -> bool:
    """Return whether a member's name leads outside of the directory that it would be unpacked in."""
    return name.startswith("/") or ".." in name.split("/") or "\0" in name


def _unreadable(archive: Path, why: str) -> UsageError:
    return UsageError(
        "cve-archive",
        f"The archive {archive} cannot be read: {why}.",
        advice="Give a .tar.xz, .tar.gz or .zip of the kernel's CVE list, or the directory it unpacks to.",
    )


def _tar_members(file: IO[bytes], total_max: int) -> Iterator[Member]:
    return tar_members(Unpacked(file, limit=total_max), wanted_bytes=RECORD_FILE_MAX)


def _zip_members(file: IO[bytes], total_max: int, wanted: Callable[[str], bool]) -> Iterator[Member]:
    if _directory_bytes(file) > _DIRECTORY_MAX:
        raise DamagedArchive(why=f"its table of contents has more than {_DIRECTORY_MAX // 2**20} MiB")
    left = total_max
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                link = (info.external_attr >> 28) not in {0, 0o10}  # the Unix file type, 0 if none was stored
                regular = not info.is_dir() and not link
                content: bytes | None = b""
                if regular and wanted(info.filename):
                    if info.flag_bits & _ENCRYPTED:
                        raise DamagedArchive(why="it is encrypted")
                    if info.compress_type not in _BOUNDED:
                        raise DamagedArchive(
                            why="a file in it is packed by bzip2 or LZMA, which can unpack without limit"
                        )
                    with archive.open(info) as member:
                        content = member.read(RECORD_FILE_MAX + 1)
                    left -= len(content)
                    content = content if len(content) <= RECORD_FILE_MAX else None
                if left < 0:
                    raise DamagedArchive(why=f"it unpacks to more than {total_max // 2**20} MiB")
                yield Member(name=info.filename, regular=regular, content=content, modified=_seconds(info))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, ValueError) as error:
        raise DamagedArchive(why=f"its zip structure is broken ({error})") from error
    # zipfile raises this for what it cannot read: patched data, strong encryption, a newer version of the format.
    except NotImplementedError as error:
        raise DamagedArchive(why="it is encrypted or packed in a way that is not supported") from error


def _seconds(info: zipfile.ZipInfo) -> int:
    """Return the time of a member's last change, 0 for one that cannot be; a zip does not name its time zone."""
    try:
        return int(datetime(*info.date_time, tzinfo=UTC).timestamp())
    except ValueError:
        return 0


def _directory_bytes(file: IO[bytes]) -> int:
    """Return the size of a zip's table of contents, which the standard library reads into memory in one go."""
    file.seek(0, 2)
    span = min(file.tell(), 2**16 + _END.size + _LOCATOR.size + _END64.size)
    file.seek(-span, 2)
    tail = file.read(span)
    file.seek(0)
    # As zipfile looks for it: at the very end first, else the last one within the longest possible comment.
    at = len(tail) - _END.size
    if not tail[at:].startswith(b"PK\5\6") or not tail.endswith(b"\0\0"):
        at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise DamagedArchive(why="it has no zip end record")
    size = int(_END.unpack_from(tail, at)[5])
    at64 = at - _LOCATOR.size - _END64.size
    if at64 < 0 or not tail[at64:].startswith(b"PK\6\6"):
        return size
    return max(int(_END64.unpack_from(tail, at64)[8]), 0 if size == 0xFFFFFFFF else size)
