# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of CVEs: the source patches that close each on one kernel, from the places that a policy names.

Each place is asked in the policy's order and the first that has a fix gives it. A place that cannot be read, and a fix
that cannot be used, are findings; the next place is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol

from elivepatch.advisory.exposure.affected import Assessment, State
from elivepatch.advisory.exposure.version import KernelVersion, listed_version
from elivepatch.advisory.records.record import CVE_ID, Findings
from elivepatch.files.bounded import Unusable, read_regular
from elivepatch.model.errors import BuildStopped, ElivepatchError, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.series import SourcePatch
from elivepatch.model.trial import Expectation

PATCH_MAX = 4 * 1024 * 1024
"""Bytes of one source patch; the largest fixes of the list have some 200 KiB."""

_PATCHES_MAX = 32  # of one fix
_SUFFIXES = (".patch", ".diff")
_DATE = re.compile(rb"^Date: +(.{6,80})$", re.MULTILINE)
_TOUCHED = re.compile(rb"^(?:---|\+\+\+) [ab]/([^\t\n\r]{1,400})", re.MULTILINE)
_NAMED = re.compile(r"(CVE-[0-9]{4}-[0-9]{4,7})(?:[-._].*)?\.(?:patch|diff)")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCommit:
    """A commit of the kernel's own branch that fixes, and the version that first has it."""

    id: str
    version: KernelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A CVE to close on a kernel. `commits` are sorted by version; `lacking` is the reason if there are none."""

    cve: str
    kernel: KernelVersion
    commits: tuple[WantedCommit, ...]
    lacking: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """Source patches that close a CVE, in order, and the place they come from.

    `dated` is when the youngest of them was made. `order` sorts fixes as they went into the branch: the version that
    first has the last of them. `expectations` are what its trial must see. `find_hints` finds `hints`, which takes
    time and is needed only if the fix does not apply.
    """

    cve: str
    patches: tuple[SourcePatch, ...]
    origin: str
    dated: datetime
    order: tuple[int, ...]
    expectations: tuple[Expectation, ...] = ()
    find_hints: Callable[[], tuple[str, ...]] = field(default=tuple, compare=False, repr=False)

    @property
    def hints(self) -> tuple[str, ...]:
        """Other commits that changed the same files before, as `ID SUBJECT`: one of them may be needed first."""
        return self.find_hints()

    @property
    def digests(self) -> tuple[Digest, ...]:
        """SHA-256 of the patches, in order."""
        return tuple(patch.digest for patch in self.patches)

    @property
    def files(self) -> frozenset[str]:
        """The files that the patches change, as they name them."""
        found = (name for patch in self.patches for name in _TOUCHED.findall(patch.content))
        return frozenset(name.decode(errors="replace") for name in found)


class FixSource(Protocol):
    """A place that a policy names."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Get ready for `find` of each of these, so that common work is done once.

        Raises ElivepatchError if the place cannot be asked at all.
        """

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix, None if this place has none; a fix that cannot be used goes to `findings`.

        Raises ElivepatchError if the place cannot be asked at all. `prepare` need not have been called.
        """


@dataclass(slots=True)
class Found:
    """Result of asking all places: fixes by CVE, the reason if there is none, and the findings."""

    fixes: dict[str, Fix] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)


def wanted_of(assessment: Assessment, kernel: KernelVersion) -> Wanted:
    """Return which commits close a CVE on a kernel: those of its own branch, one for each open introduction."""
    commits: dict[str, WantedCommit] = {}
    lacking = "" if assessment.state is State.AFFECTED else "it is not certain that this kernel is affected"
    for evidence in assessment.evidence if not lacking else ():
        version = listed_version(evidence.fixed) if evidence.fixed else None
        if version is None:
            lacking = "no fix is listed"
        elif version.branch != kernel.branch:
            lacking = f"no fix in its branch, only in {version}"
        else:
            commits[evidence.fixed_commit] = WantedCommit(id=evidence.fixed_commit, version=version)
    ordered = sorted(commits.values(), key=lambda commit: commit.version.order)
    return Wanted(cve=assessment.record.id, kernel=kernel, commits=() if lacking else tuple(ordered), lacking=lacking)


def find_fixes(sources: Sequence[FixSource], wanted: Iterable[Wanted]) -> Found:
    """Ask the places in order for every CVE; a place that cannot be asked is not asked again."""
    found = Found()
    pending = list(wanted)
    for source in sources:
        pending = _ask(source, pending, found)
    for one in pending:
        found.missing[one.cve] = one.lacking or "no place that the policy names has its fix"
    return found


def _ask(source: FixSource, wanted: Sequence[Wanted], found: Found) -> list[Wanted]:
    """Put the fixes of one place into `found`; return those still wanted."""
    try:
        source.prepare(wanted)
        for one in wanted:
            fix = source.find(one, found.findings)
            if fix is not None:
                found.fixes[one.cve] = fix
    except BuildStopped:  # the time of the whole run is up
        raise
    except ElivepatchError as error:
        found.findings.add(error.problem.code, source.name, error.problem.message)
    return [one for one in wanted if one.cve not in found.fixes]


class DirectoryFixes:
    """A directory of source patches named after CVEs: CVE-ID.patch, CVE-ID-*.patch in order, or CVE-ID/*.patch."""

    def __init__(self, directory: Path) -> None:
        self.name = str(directory)
        self._directory = directory
        self._files: Mapping[str, list[Path]] | None = None

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Do nothing: reading a file is one step whenever it happens."""

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix of this name; a file that is no regular file of bounded size sets the whole fix aside."""
        if self._files is None:
            self._files = self._listed()
        files = self._files.get(wanted.cve)
        if not files:
            return None
        patches, dates = [], []
        for file in files:
            read = _read(file)
            if isinstance(read, str):
                findings.add("bad-fix", str(file), f"{read} The fix of {wanted.cve} is left out.")
                return None
            patches.append(SourcePatch(file.name, read[0]))
            dates.append(dated(read[0]) or read[1])
        if len(patches) > _PATCHES_MAX:
            findings.add("bad-fix", wanted.cve, f"It has more than {_PATCHES_MAX} source patches.")
            return None
        return Fix(cve=wanted.cve, patches=tuple(patches), origin=self.name, dated=max(dates), order=order_of(wanted))

    def _listed(self) -> Mapping[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        try:
            with os.scandir(self._directory) as entries:
                names = sorted(entry.name for entry in entries)
            for name in names:
                path = self._directory / name
                if found := _NAMED.fullmatch(name):
                    files.setdefault(found[1], []).append(path)
                elif CVE_ID.fullmatch(name) and path.is_dir() and not path.is_symlink():
                    inner = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
                    files.setdefault(name, []).extend(inner)
        except OSError as error:
            raise UsageError(
                "fix-source",
                f"The directory of fixes {self._directory} cannot be read: {error.strerror}.",
                advice="Fix the policy file: it names this directory.",
            ) from error
        return files


def order_of(wanted: Wanted) -> tuple[int, ...]:
    """Return the sort key of a fix in its branch; those of an unknown version come last."""
    if not wanted.commits:
        return (1,)
    branch, level, candidate = wanted.commits[-1].version.order
    return (0, *branch, level, candidate)


def dated(patch: bytes) -> datetime | None:
    """Return the date in a mailed patch's header, None if it has none."""
    found = _DATE.search(patch[:16384])
    if found is None:
        return None
    try:
        read = parsedate_to_datetime(found[1].decode("ascii", errors="replace").strip())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def _read(file: Path) -> tuple[bytes, datetime] | str:
    """Return a patch and when its file was written, or why it cannot be used."""
    read = read_regular(file, PATCH_MAX)
    if isinstance(read, Unusable):
        return read.why
    content, modified = read
    if not content.strip():
        return "It is empty."
    return content, datetime.fromtimestamp(modified, tz=UTC)
