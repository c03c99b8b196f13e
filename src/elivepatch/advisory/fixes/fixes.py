# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixes of CVEs: the source patches that close each on one kernel, from the places that a policy names.

Each place is asked in the policy's order and the first that has a fix gives it. If a place cannot be read or a fix
cannot be used, the next place is asked; a CVE of which then none has a fix is unanswered, and not without a fix.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol

from elivepatch.advisory.exposure.affected import Assessment, State
from elivepatch.advisory.exposure.version import KernelVersion, listed_version
from elivepatch.advisory.records.record import CVE_ID, Findings
from elivepatch.files.bounded import Unusable, read_regular
from elivepatch.model.errors import BuildStopped, ElivepatchError, EnvironmentFault, Problem, UsageError
from elivepatch.model.kernel import Digest
from elivepatch.model.series import SourcePatch
from elivepatch.model.trial import Expectation

PATCH_MAX = 4 * 1024 * 1024
"""Bytes of one source patch; the largest fixes of the list have some 200 KiB."""

_PATCHES_MAX = 32  # of one fix
_SUFFIXES = (".patch", ".diff")
_DATE = re.compile(rb"^Date: +(.{6,80})$", re.MULTILINE)
_TOUCHED = re.compile(rb"^(?:---|\+\+\+) [ab]/([^\t\n\r]{1,400})", re.MULTILINE)
_COMMIT_NAMED = re.compile(rb"(?<![0-9a-f])[0-9a-f]{12,40}(?![0-9a-f])")
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
    first has the last of them. `expectations` are what its trial must see. `commits` are the fixing commits that were
    asked for. `find_hints` finds `hints`, which takes time and is needed only if the fix does not apply.
    """

    cve: str
    patches: tuple[SourcePatch, ...]
    origin: str
    dated: datetime
    order: tuple[int, ...]
    expectations: tuple[Expectation, ...] = ()
    commits: tuple[str, ...] = ()
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

    @property
    def doubt(self) -> str:
        """One sentence if the place may have fixes that it cannot give, empty if it gave all that it has."""

    def concerns(self, wanted: Wanted) -> bool:
        """Return whether the place can have a fix of this CVE: one that is asked for commits needs their ids."""

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """Get ready for `find` of each of these, so that common work is done once.

        Raises ElivepatchError if the place cannot be asked at all.
        """

    def find(self, wanted: Wanted, findings: Findings) -> Fix | None:
        """Return the fix, None if this place has none; a fix that cannot be used goes to `findings`.

        Raises ElivepatchError if the place cannot be asked at all. `prepare` need not have been called.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A place that did not answer, or not in full, and the problem that it has."""

    place: str
    problem: Problem

    def as_dict(self) -> dict[str, str]:
        """Return a JSON-ready mapping."""
        told = self.problem
        return {"place": self.place, "code": told.code, "message": told.message, "advice": told.advice}


@dataclass(slots=True)
class Found:
    """Result of asking all places: fixes by CVE, the reason if there is none, and the findings.

    `missing` are CVEs for which every place has answered that it has no fix. `unanswered` are those without a fix of
    which a place may have one: it did not answer, lacks a commit that the list names, or has a fix that cannot be used.
    `silent` are the places that did not answer.
    """

    fixes: dict[str, Fix] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    silent: list[Silence] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)


def wanted_of(assessment: Assessment, kernel: KernelVersion) -> Wanted:
    """Return which commits close a CVE on a kernel: all of its own branch that it lacks, for each open introduction."""
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
    doubts: dict[str, str] = {}
    for source in sources:
        pending = _ask(source, pending, found, doubts)
    for one in pending:
        if one.cve in doubts:
            found.unanswered[one.cve] = doubts[one.cve]
        else:
            found.missing[one.cve] = one.lacking or "no place that the policy names has its fix"
    return found


def _ask(source: FixSource, wanted: Sequence[Wanted], found: Found, doubts: dict[str, str]) -> list[Wanted]:
    """Put the fixes of one place into `found`; return those still wanted, with the reason in `doubts` if it has one."""
    asked = [one for one in wanted if source.concerns(one)]
    try:
        if asked:
            source.prepare(asked)
        for one in asked:
            before = found.findings.total
            fix = source.find(one, found.findings)
            if fix is not None and _whole(fix, one, found.findings):
                found.fixes[one.cve] = replace(fix, commits=tuple(commit.id for commit in one.commits if commit.id))
            elif found.findings.total > before:
                doubts.setdefault(one.cve, f"{source.name}: {found.findings.last}")
    except BuildStopped:  # the time of the whole run is up
        raise
    except ElivepatchError as error:
        found.silent.append(Silence(place=source.name, problem=error.problem))
        _doubt(f"{source.name} did not answer: {error.problem.message}", asked, found, doubts)
    else:
        if source.doubt:
            _doubt(f"{source.name}: {source.doubt}", asked, found, doubts)
    return [one for one in wanted if one.cve not in found.fixes]


def _doubt(reason: str, asked: Sequence[Wanted], found: Found, doubts: dict[str, str]) -> None:
    for one in asked:
        if one.cve not in found.fixes:
            doubts.setdefault(one.cve, reason)


def _whole(fix: Fix, wanted: Wanted, findings: Findings) -> bool:
    """Return whether a fix has all commits that the list names, as far as its patches show; else add a finding.

    A place that is asked for commits gives all or none. A person's patches show what they are by the ids in them, or
    by their number: a CVE is not closed by half of its fix.
    """
    if len(wanted.commits) < 2:
        return True
    named = {name for patch in fix.patches for name in _COMMIT_NAMED.findall(patch.content)}
    lacking = [one for one in wanted.commits if not any(one.id.startswith(name.decode()) for name in named)]
    if not lacking or (len(lacking) == len(wanted.commits) and len(fix.patches) >= len(wanted.commits)):
        return True
    ids = " and ".join(one.id[:12] for one in wanted.commits)
    message = (
        f"It may be half of a fix: the list names {ids}. Name all of them in the patches, or give a patch for each."
    )
    findings.add("half-fix", f"{fix.origin}: {fix.cve}", message)
    return False


class DirectoryFixes:
    """A directory of source patches named after CVEs: CVE-ID.patch, CVE-ID-*.patch in order, or CVE-ID/*.patch."""

    doubt = ""

    def __init__(self, directory: Path) -> None:
        self.name = str(directory)
        self._directory = directory
        self._files: Mapping[str, list[Path]] | None = None

    def concerns(self, wanted: Wanted) -> bool:  # noqa: ARG002 - a file may be named after any CVE
        """Return true."""
        return True

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
        if not files:
            # An unmounted disk looks like this, and would turn every open CVE into one without a fix.
            raise EnvironmentFault(
                "fix-source-empty",
                f"The directory of fixes {self._directory} has no file that is named after a CVE.",
                advice="Mount or fill it, or take it out of the policy; docs/closing.md has the names of its files.",
            )
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
