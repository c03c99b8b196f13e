# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a directory of records: regular files only, no link followed, nothing outside read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from elivepatch.advisory.readers.archive import RECORD_FILE_MAX
from elivepatch.advisory.records.record import Findings
from elivepatch.files.bounded import Unusable, read_regular
from elivepatch.model.errors import UsageError

_DEPTH_MAX = 12
_NOT_RECORDS = {".git"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One file that can be read: its path inside the list, its bytes, and a mark that changes when its content does.

    `modified` is the time of its last change in seconds since 1970, 0 if it is not known.
    """

    path: str
    size: int
    mark: str
    modified: float = 0


def list_directory(top: Path, findings: Findings, *, wanted: Callable[[str], bool]) -> Iterator[Listed]:
    """Give every wanted regular file below `top`, sorted by path.

    The mark is made of size, modification and change time, in nanoseconds. Links and special files with a wanted
    name go to `findings`. Raises UsageError if a directory cannot be read.
    """
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            with os.scandir(top / inside) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(
                "cve-records",
                f"The directory {top / inside} cannot be read: {error.strerror}.",
                advice="Give the directory of the kernel's CVE list, an archive of it, or an index.",
            ) from error
        for entry in reversed(entries):
            if entry.is_dir(follow_symlinks=False) and entry.name not in _NOT_RECORDS:
                if inside.count("/") < _DEPTH_MAX:
                    pending.append(f"{inside}{entry.name}/")
                else:
                    findings.add("too-deep", inside + entry.name, f"It lies more than {_DEPTH_MAX} directories down.")
        for entry in entries:
            path = inside + entry.name
            if entry.is_dir(follow_symlinks=False) or not wanted(path):
                continue
            if not entry.is_file(follow_symlinks=False):
                findings.add("not-a-file", path, "It is a link or a device.")
                continue
            seen = entry.stat(follow_symlinks=False)
            mark = f"{seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"
            yield Listed(path=path, size=seen.st_size, mark=mark, modified=seen.st_mtime)


def read_directory(top: Path, files: Iterable[Listed], findings: Findings) -> Iterator[tuple[str, bytes]]:
    """Give path and content of each file; one that is too large, gone or no longer a file goes to `findings`."""
    for path in (file.path for file in files):
        read = read_regular(top / path, RECORD_FILE_MAX)
        if isinstance(read, Unusable):
            findings.add(read.code, path, read.why)
        else:
            yield path, read[0]
