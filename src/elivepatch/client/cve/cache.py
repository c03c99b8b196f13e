# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept about CVEs, so that questions are answered without a network: below /var/lib/elivepatch/advisories.

records.idx             all records (elivepatch.advisory.records.index)
sources/RELEASE.json    what a kernel was built from (elivepatch.advisory.exposure.sources)
verdicts/RELEASE.json   what became of the fixes on it (elivepatch.advisory.exposure.verdicts)
git/                    commits fetched from the URLs that the policy names
overlays/NAME/          overlays subscribed to (elivepatch.client.cve.subscriptions)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from elivepatch.advisory.exposure.sources import MAX_BYTES, KernelSources
from elivepatch.advisory.exposure.verdicts import FixVerdicts
from elivepatch.client.server.patch_files import write_whole
from elivepatch.model.errors import HostError, UsageError
from elivepatch.model.kernel import Release, parse_release

DIRECTORY = "var/lib/elivepatch/advisories"

_LEFT_S = 3600.0


@dataclass(frozen=True, slots=True)
class CveCache:
    """The files below one directory. Nothing is made before something is kept."""

    directory: Path

    @property
    def records(self) -> Path:
        """Where the index of all records is."""
        return self.directory / "records.idx"

    def raw_records(self) -> bytes | None:
        """Return the bytes of the index of all records, None where there is none; raises HostError."""
        return self._read(self.records)

    def keep_records(self, content: bytes) -> None:
        """Keep the index of all records that a server handed out; raises HostError where that fails."""
        self._write(self.records, content)

    def sources(self, release: str) -> KernelSources | None:
        """Return what is kept about a kernel, None where nothing is.

        Raises HostError where it may not be read, UsageError where it is damaged.
        """
        content = self._read(self._sources_file(release))
        return None if content is None else KernelSources.decode(content)

    def has_sources(self, release: str) -> bool:
        """Tell whether anything is kept about a kernel and may be read."""
        return os.access(self._sources_file(release), os.R_OK)

    def raw_sources(self, release: str) -> bytes | None:
        """Return the bytes that are kept about a kernel, None where there are none."""
        return self._read(self._sources_file(release))

    def keep_sources(self, release: str, content: bytes) -> None:
        """Keep what a server said about a kernel; raises HostError where that fails."""
        self._write(self._sources_file(release), content)

    def verdicts(self, release: str) -> FixVerdicts:
        """Return the verdicts for a kernel, none where nothing is kept; raises as `sources` does."""
        file = self._verdicts_file(release)
        content = self._read(file)
        if content is None:
            return FixVerdicts(release=Release(release))
        try:
            read = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                "cve-verdicts", f"{file} is damaged.", advice="Remove the file; the server is asked again then."
            ) from error
        return FixVerdicts.from_dict(read)

    def keep_verdicts(self, verdicts: FixVerdicts) -> None:
        """Keep the verdicts for their kernel; raises HostError where that fails."""
        content = json.dumps(verdicts.as_dict(), indent=1, ensure_ascii=False).encode() + b"\n"
        self._write(self._verdicts_file(verdicts.release), content)

    def repository(self, url: str) -> Path:
        """Return where commits that are fetched from `url` are."""
        return self.directory / "git" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.git"

    def _sources_file(self, release: str) -> Path:
        return self.directory / "sources" / f"{parse_release(release)}.json"

    def _verdicts_file(self, release: str) -> Path:
        return self.directory / "verdicts" / f"{parse_release(release)}.json"

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
        write_whole(file, content)

    def sweep(self) -> None:
        """Remove what runs that were killed while they wrote have left: files of names that begin with a dot.

        Only old ones: another command may be writing now.
        """
        eldest = time.time() - _LEFT_S
        for file in (*self.directory.glob(".*"), *self.directory.glob("*/.*")):
            with contextlib.suppress(OSError):
                if file.is_file() and file.lstat().st_mtime < eldest:
                    file.unlink()

    @staticmethod
    def make(directory: Path) -> None:
        """Make a directory and those above it, root's alone; raises HostError where that fails."""
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
