# SPDX-License-Identifier: GPL-2.0-or-later
"""Reader of all records of a directory, a git clone or an archive of the kernel's CVE list.

The input is not trusted: a file that cannot be used is named and counted in the findings, and reading continues. A
record whose ranges cannot be used is kept with the state `unknown`: to leave it out would read as safe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from elivepatch.advisory.exposure.contradiction import commit_doubt, contradictions
from elivepatch.advisory.git import git_directory
from elivepatch.advisory.readers import archive, clone, directory
from elivepatch.advisory.readers.directory import Listed
from elivepatch.advisory.records.cve5 import Published, parse_published
from elivepatch.advisory.records.dyad import parse_dyad
from elivepatch.advisory.records.published_ranges import PublishedRanges
from elivepatch.advisory.records.record import CONTRADICTING, Findings, Introduction, Origin, Record, Records
from elivepatch.files.digest import sha256, sha256_file
from elivepatch.model.errors import UsageError
from elivepatch.model.progress import Event, Progress

_RECORD_FILE = re.compile(r"(?:.*/)?(CVE-[0-9]{4}-[0-9]{4,7})\.(json|dyad)")
_REJECTED = "rejected"  # upstream moves the files of a withdrawn record to a directory of this name
_RECORDS_MAX = 250_000
_MARK_BYTES = 12
_TIME_MAX = 2**33  # seconds: later times are no dates of this list
_EVERY = 5_000  # files between two events of progress

_Read = Callable[[list[Listed]], Iterator[tuple[str, bytes]]]


def is_record_file(path: str) -> bool:
    """Return whether a path of the list is one of the two files that are read of a record: `.json` and `.dyad`."""
    return _RECORD_FILE.fullmatch(path) is not None


def read_records(source: Path, *, progress: Progress, previous: Records | None = None) -> Records:
    """Return the records of `source`, a directory, a git clone or an archive.

    With `previous`, unchanged records are taken from there: all of the list for an archive of the same SHA-256 or a
    clone with the same HEAD; else in a clone the records with the same blobs, in a directory those with files of the
    same size and times. Records with a finding are read again, so that each reading reports it.
    Raises UsageError if there is nothing to read, EnvironmentFault if git fails.
    """
    reader = _Reader(progress, previous)
    if not source.is_dir():
        records = reader.from_archive(source)
    elif (git := git_directory(source)) is not None:
        records = reader.from_clone(git)
    else:
        records = reader.from_directory(source)
    if not records.listed and not records.rejected:
        raise UsageError(
            "cve-no-records",
            f"{source} contains no record of the kernel's CVE list.",
            advice="Give a clone or an archive of the list; its records are cve/published/YEAR/CVE-*.json and .dyad.",
        )
    return records


@dataclass(slots=True)
class _Parts:
    """Parts of one record that were read so far. `unusable` is the reason if its JSON cannot be used."""

    published: Published | None = None
    introductions: tuple[Introduction, ...] = ()
    defect: str = ""
    unusable: str = ""
    files: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Collection:
    """Puts records together from their files, which may come in any order."""

    findings: Findings = field(default_factory=Findings)
    parts: dict[str, _Parts] = field(default_factory=dict)
    rejected: set[str] = field(default_factory=set)
    flagged: set[str] = field(default_factory=set)

    def add(self, path: str, content: bytes) -> None:
        """Take one file; the first of its name counts."""
        name, suffix, withdrawn = _about(path)
        if withdrawn:
            self.rejected.add(name)
            return
        parts = self.parts.setdefault(name, _Parts())
        _check_count(len(self.parts))
        if suffix in parts.files:
            self._flag("duplicate", name, path, f"{name} has a second .{suffix} file; the first one counts.")
        elif suffix == "dyad":
            read = parse_dyad(content.decode(errors="replace"))
            parts.defect = read if isinstance(read, str) else ""
            parts.introductions = () if isinstance(read, str) else read
        else:
            self._add_published(parts, name, path, content)
        parts.files.add(suffix)

    def _add_published(self, parts: _Parts, name: str, path: str, content: bytes) -> None:
        published = parse_published(content, name)
        if isinstance(published, str):
            parts.unusable = published
            self._flag("bad-record", name, path, f"{published} Its answer is `unknown`.")
            return
        for odd in published.odd_files:
            self._flag("bad-file-name", name, name, f"It names {odd[:120]!r}, which cannot be a file of the kernel.")
        if published.rejected:
            self.rejected.add(name)
        parts.published = published

    def records(self, known: Collection[str] = ()) -> dict[str, Record]:
        """Return the records, with a finding for each one that is incomplete; `known` ones were not to be read."""
        made: dict[str, Record] = {}
        for name, parts in self.parts.items():
            if name in self.rejected:
                if parts.published is not None and not parts.published.rejected:
                    self._flag("also-rejected", name, name, "It is published and rejected; rejected counts.")
            elif parts.published is None:
                # To leave it out would read as safe: a CVE that is not in the list is nobody's concern.
                if "json" not in parts.files:
                    parts.unusable = "It has no .json file that can be read."
                    self._flag("no-json", name, name, f"{parts.unusable} Its answer is `unknown`.")
                made[name] = Record(id=name, title="", introductions=(), defect=parts.unusable)
            else:
                defect = parts.defect if "dyad" in parts.files else "It has no .dyad file that can be read."
                if defect:
                    self._flag("bad-ranges", name, name, f"{defect} Its answer is `unknown`.")
                made[name] = self._checked(_record(name, parts, parts.published, defect), parts.published.ranges)
        for found in list(self.findings.named):
            # A file that is too large, a link or cannot be read may be all that there is of a record.
            path = _RECORD_FILE.fullmatch(found.name)
            if path is not None and not any(path[1] in ids for ids in (made, known, self.rejected)):
                made[path[1]] = Record(id=path[1], title="", defect=found.message)
                self.flagged.add(path[1])
        return made

    def _checked(self, record: Record, published: PublishedRanges) -> Record:
        """Return the record with what its published ranges contradict, with a finding if they do."""
        if published.defect and not record.defect:
            self._flag("odd-ranges", record.id, record.id, f"{published.defect} Its commits alone are used.")
        found = contradictions(record, published)
        checked = replace(record, contradictions=found, doubt=commit_doubt(record, published))
        if checked.contradictory:
            self._flag(CONTRADICTING, record.id, record.id, " ".join(checked.contradictory[:3]))
        return checked

    def _flag(self, code: str, name: str, about: str, message: str) -> None:
        self.flagged.add(name)
        self.findings.add(code, about, message)


@dataclass(slots=True)
class _Reader:
    """One reading of a source of any kind."""

    progress: Progress
    previous: Records | None
    collection: _Collection = field(default_factory=_Collection)
    newest: float = 0

    def saw(self, modified: float) -> None:
        """Note the time of a file's last change; one that cannot be is ignored."""
        if self.newest < modified < _TIME_MAX:
            self.newest = modified

    @property
    def dated(self) -> datetime | None:
        return datetime.fromtimestamp(int(self.newest), tz=UTC) if self.newest >= 1 else None

    def from_archive(self, source: Path) -> Records:
        origin = Origin(kind="archive", revision=_digest(source))
        if self.previous is not None and self.previous.origin == origin:
            return _list_alone(self.previous)
        files = archive.archive_files(source, self.collection.findings, wanted=is_record_file, modified=self.saw)
        for number, (path, content) in enumerate(files):
            if number and number % _EVERY == 0:
                self.progress(Event(stage="records", message=f"{len(self.collection.parts)} records read"))
            self.collection.add(path, content)
        return Records(
            listed=self.collection.records(),
            rejected=frozenset(self.collection.rejected),
            newest=self.dated,
            origin=origin,
            findings=self.collection.findings,
        )

    def from_clone(self, git: Path) -> Records:
        commit = clone.head(git)
        origin = Origin(kind="git", revision=commit)
        if self.previous is not None and self.previous.origin == origin:
            return _list_alone(self.previous)
        self.saw(clone.committed(git, commit))
        listed = clone.list_clone(git, commit, self.collection.findings, wanted=is_record_file)
        return self._from_listing(listed, lambda files: clone.read_clone(git, files), origin)

    def from_directory(self, top: Path) -> Records:
        listed = directory.list_directory(top, self.collection.findings, wanted=is_record_file)
        return self._from_listing(
            listed,
            lambda files: directory.read_directory(top, files, self.collection.findings),
            Origin(kind="directory"),
        )

    def _from_listing(self, listed: Iterable[Listed], read: _Read, origin: Origin) -> Records:
        """Read the records that `previous` does not have in the same state; take the others from there."""
        collection = self.collection
        files: dict[str, list[Listed]] = {}
        for file in listed:
            self.saw(file.modified)
            name, _, withdrawn = _about(file.path)
            if withdrawn:
                collection.rejected.add(name)
            else:
                files.setdefault(name, []).append(file)
                _check_count(len(files))
        marks = {name: _mark(of) for name, of in files.items()}
        before = self.previous.marks if self.previous is not None else {}
        kept = {
            name: self.previous.listed[name]
            for name, mark in marks.items()
            if self.previous is not None and before.get(name) == mark and name not in collection.rejected
        }
        wanted = [file for name, of in files.items() if name not in kept for file in of]
        for number, (path, content) in enumerate(read(wanted)):
            if number and number % _EVERY == 0:
                message = f"{len(files)} records, {len(kept)} of them unchanged"
                self.progress(Event(stage="records", message=message, fraction=number / len(wanted)))
            collection.add(path, content)
        made = kept | collection.records(kept)
        return Records(
            listed=made,
            rejected=frozenset(collection.rejected),
            newest=self.dated,
            origin=origin,
            findings=collection.findings,
            marks={name: marks[name] for name in made if name not in collection.flagged},
        )


def _list_alone(records: Records) -> Records:
    """Return the records of the list alone, without older ones and overrides."""
    listed = {name: record for name, record in records.listed.items() if not record.older}
    return replace(records, listed=listed, overrides={})


def _record(name: str, parts: _Parts, published: Published, defect: str) -> Record:
    return Record(
        id=name,
        title=published.title,
        files=published.files,
        introductions=parts.introductions,
        score=published.score,
        vector=published.vector,
        defect=defect,
    )


def _about(path: str) -> tuple[str, str, bool]:
    """Return the id, the suffix and whether the record was withdrawn, from the path of its file."""
    found = _RECORD_FILE.fullmatch(path)
    if found is None:
        raise ValueError(path)
    return found[1], found[2], _REJECTED in path.split("/")


def _mark(files: list[Listed]) -> bytes:
    text = "\n".join(f"{file.path}\0{file.mark}" for file in sorted(files, key=lambda file: file.path))
    return bytes.fromhex(sha256(text.encode(errors="surrogateescape")))[:_MARK_BYTES]


def _check_count(count: int) -> None:
    if count > _RECORDS_MAX:
        raise UsageError(
            "cve-too-many-records",
            f"There are more than {_RECORDS_MAX} records.",
            advice="The kernel's CVE list has some 15,000; give that list alone.",
        )


def _digest(source: Path) -> str:
    if source.exists() and not source.is_file():
        raise _unreadable(source, "it is neither a file nor a directory")
    try:
        return sha256_file(source)
    except OSError as error:
        raise _unreadable(source, error.strerror or "unknown reason") from error


def _unreadable(source: Path, why: str) -> UsageError:
    return UsageError(
        "cve-records",
        f"{source} cannot be read: {why}.",
        advice="Give the directory of the kernel's CVE list, a clone or an archive of it, or an index.",
    )
