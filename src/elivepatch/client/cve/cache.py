# SPDX-License-Identifier: GPL-2.0-or-later
"""Cache of what is known about CVEs, below /var/lib/elivepatch/advisories: questions are answered without a network.

records.idx             all records (elivepatch.advisory.records.index)
sources/RELEASE.json    the sources a kernel was built from (elivepatch.advisory.exposure.sources)
verdicts/RELEASE.json   verdicts on the fixes for it (elivepatch.advisory.exposure.verdicts)
verdicts/RELEASE.log    verdicts since that file was written, one JSON document a line
git/                    commits fetched from the URLs that the policy names
overlays/NAME/          overlays that this host is subscribed to (elivepatch.client.cve.subscriptions)
auto.lock               held by a run of `elivepatch auto`
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elivepatch.advisory.exposure.sources import MAX_BYTES, KernelSources
from elivepatch.advisory.exposure.verdicts import FixVerdict, FixVerdicts
from elivepatch.files.atomic import write_atomic
from elivepatch.files.digest import sha256
from elivepatch.files.lock import Locked, exclusive_lock
from elivepatch.model.errors import HostError, UsageError
from elivepatch.model.kernel import Release, parse_release

DIRECTORY = "var/lib/elivepatch/advisories"

_STAGED_S = 3600.0


@dataclass(frozen=True, slots=True)
class CveCache:
    """The files below one directory. Directories are created on first write."""

    directory: Path

    @property
    def records(self) -> Path:
        """The path of the index of all records."""
        return self.directory / "records.idx"

    def raw_records(self) -> bytes | None:
        """Return the bytes of the index of all records, None if there is none; raises HostError."""
        return self._read(self.records)

    def keep_records(self, content: bytes) -> None:
        """Write the index of all records as a server sent it; raises HostError if that fails."""
        self._write(self.records, content)

    def sources(self, release: str) -> KernelSources | None:
        """Return the sources of a kernel, None if they are not in the cache.

        Raises HostError if the file cannot be read, UsageError if it is damaged.
        """
        content = self._read(self._sources_file(release))
        return None if content is None else KernelSources.decode(content)

    def has_sources(self, release: str) -> bool:
        """Return whether the sources of a kernel are in the cache and may be read."""
        return os.access(self._sources_file(release), os.R_OK)

    def raw_sources(self, release: str) -> bytes | None:
        """Return the bytes of a kernel's sources, None if they are not in the cache; raises HostError."""
        return self._read(self._sources_file(release))

    def keep_sources(self, release: str, content: bytes) -> None:
        """Write a kernel's sources as a server sent them; raises HostError if that fails."""
        self._write(self._sources_file(release), content)

    def verdicts(self, release: str) -> FixVerdicts:
        """Return the verdicts for a kernel, the logged ones included; raises as `sources` does."""
        file = self._verdicts_file(release)
        content = self._read(file)
        if content is None:
            found = FixVerdicts(release=Release(release))
        else:
            try:
                found = FixVerdicts.from_dict(json.loads(content))
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    "cve-verdicts", f"{file} is damaged.", advice="Remove the file; the server is asked again then."
                ) from error
        found.replay(self._read(self._verdict_log(release)) or b"")
        return found

    def keep_verdicts(self, verdicts: FixVerdicts) -> None:
        """Write all verdicts for their kernel and empty the log; raises HostError if that fails."""
        content = json.dumps(verdicts.as_dict(), indent=1, ensure_ascii=False).encode() + b"\n"
        self._write(self._verdicts_file(verdicts.release), content)
        with contextlib.suppress(OSError):  # a log that stays is replayed over the same verdicts
            self._verdict_log(verdicts.release).unlink(missing_ok=True)

    def log_verdict(self, release: Release, cve: str, verdict: FixVerdict) -> None:
        """Append one verdict to the log; raises HostError if that fails.

        Writing all verdicts for each answer would take quadratic time. The line is not synced: a power cut costs one
        more question. It begins with a line feed, so that a line that was cut off spoils no other.
        """
        file = self._verdict_log(release)
        self.make(file.parent)
        try:
            with file.open("ab") as opened:
                opened.write(b"\n" + FixVerdicts.log_line(cve, verdict) + b"\n")
        except OSError as error:
            raise _unwritable(file, error) from error

    def has_log(self, release: Release) -> bool:
        """Return whether verdicts were logged since all were written."""
        return self._verdict_log(release).exists()

    def repository(self, url: str) -> Path:
        """Return the directory of commits that are fetched from `url`."""
        return self.directory / "git" / f"{sha256(url.encode())[:16]}.git"

    @contextmanager
    def run_lock(self) -> Iterator[None]:
        """Hold the lock of `elivepatch auto`; raises HostError at once if another run holds it."""
        self.make(self.directory)
        path = self.directory / "auto.lock"
        try:
            with exclusive_lock(path):
                yield
        except Locked:
            raise HostError(
                "auto-running",
                f"Another run of `elivepatch auto` holds {path}.",
                advice="Wait until it is done; it ends by itself after the policy's limit_minutes.",
            ) from None

    def sweep(self) -> None:
        """Remove files that killed commands left half-written: names that begin with a dot.

        Files younger than an hour stay: another command may be writing now.
        """
        eldest = time.time() - _STAGED_S
        for file in (*self.directory.glob(".*"), *self.directory.glob("*/.*")):
            with contextlib.suppress(OSError):
                if file.is_file() and file.lstat().st_mtime < eldest:
                    file.unlink()

    @staticmethod
    def make(directory: Path) -> None:
        """Make a directory and those above it, readable by their owner alone; raises HostError if that fails."""
        try:
            for one in (*reversed(directory.parents), directory):
                if not one.exists():
                    one.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise HostError(
                "advisories-unwritable",
                f"{directory} cannot be made: {error.strerror}.",
                advice="Run the command as root, or give another directory with --keep.",
            ) from error

    def _sources_file(self, release: str) -> Path:
        return self.directory / "sources" / f"{parse_release(release)}.json"

    def _verdicts_file(self, release: str) -> Path:
        return self.directory / "verdicts" / f"{parse_release(release)}.json"

    def _verdict_log(self, release: str) -> Path:
        return self.directory / "verdicts" / f"{parse_release(release)}.log"

    @staticmethod
    def _read(file: Path) -> bytes | None:
        try:
            with file.open("rb") as opened:
                return opened.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostError(
                "advisories-unreadable",
                f"{file} cannot be read: {error.strerror}.",
                advice="Run the command as root, or give another directory with --keep.",
            ) from error

    def _write(self, file: Path, content: bytes) -> None:
        self.make(file.parent)
        try:
            write_atomic(file, content)
        except OSError as error:
            raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> HostError:
    return HostError(
        "cannot-write",
        f"{file} cannot be written: {error.strerror}.",
        advice="Make room, run the command as root, or give another directory with --keep.",
    )
