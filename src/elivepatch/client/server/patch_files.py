# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that the command line names: source patches and predicates to read, results to write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from elivepatch.files.atomic import write_atomic
from elivepatch.model.errors import HostError, UsageError
from elivepatch.model.predicate import SOURCE_LIMIT_BYTES, SUFFIXES, Predicate
from elivepatch.model.series import SERIES_LIMIT_BYTES, PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation, check_expectations
from elivepatch.patterns import require_patterns

_ELF = b"\x7fELF"


def read_series(files: Sequence[Path]) -> PatchSeries:
    """Return the patches in the files, in order; raises UsageError if one cannot be read."""
    return PatchSeries(tuple(SourcePatch(file.name, _read(file)) for file in files))


def read_expectations(texts: Sequence[str]) -> tuple[Expectation, ...]:
    """Return what `--expect` gives: COMMAND =~ REGEX, or the file of a predicate, NAME.c or NAME.sh.

    Raises UsageError if one is neither, or cannot be read.
    """
    found = check_expectations(tuple(_expectation(text) for text in texts))
    require_patterns([one.pattern for one in found if one.predicate is None])
    return found


def _expectation(text: str) -> Expectation:
    if "=~" in text or not text.endswith(SUFFIXES):
        return Expectation.parse(text)
    file = Path(text)
    content = _content(file, SOURCE_LIMIT_BYTES, "predicate", "Give the path of a file that you can read.")
    return Expectation.of(Predicate.of(file.name, content))


def _content(file: Path, limit_bytes: int, code: str, advice: str) -> bytes:
    """Return a file's content, at most one byte more than the limit; raises UsageError if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(limit_bytes + 1)
    except OSError as error:
        raise UsageError(code, f"{file} cannot be read: {error.strerror}.", advice=advice) from error


def _read(file: Path) -> bytes:
    content = _content(file, SERIES_LIMIT_BYTES, "patch-file", "Give files that hold source patches.")
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
