# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that the command line names: source patches to read, results to write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from elivepatch.files.atomic import write_atomic
from elivepatch.model.errors import HostError, UsageError
from elivepatch.model.series import SERIES_LIMIT_BYTES, PatchSeries, SourcePatch

_ELF = b"\x7fELF"


def read_series(files: Sequence[Path]) -> PatchSeries:
    """Return the patches in the files, in order; raises UsageError if one cannot be read."""
    return PatchSeries(tuple(SourcePatch(file.name, _read(file)) for file in files))


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(SERIES_LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(
            "patch-file", f"{file} cannot be read: {error.strerror}.", advice="Give files that hold source patches."
        ) from error
    if len(content) > SERIES_LIMIT_BYTES:
        raise UsageError("patch-file", f"{file} is larger than 24 MiB.", advice="Send only what the fix needs.")
    if content.startswith(_ELF):
        raise UsageError(
            "patch-file",
            f"{file} is a module, not a source patch.",
            advice=f"Load it with `elivepatch load {file}`; apply and build take source patches.",
        )
    return content


def write_whole(file: Path, content: bytes) -> None:
    """Replace `file` by one with `content`, durably, with the permissions of the umask; raises HostError."""
    try:
        write_atomic(file, content, mode=0o666)
    except OSError as error:
        raise HostError(
            "cannot-write",
            f"{file} cannot be written: {error.strerror}.",
            advice="Make room or choose another --output.",
        ) from error
