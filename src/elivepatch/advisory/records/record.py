# SPDX-License-Identifier: GPL-2.0-or-later
"""CVE records, and findings about input that was set aside while records were read."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from elivepatch.advisory.exposure.version import KernelVersion

CVE_ID = re.compile(r"CVE-[0-9]{4}-[0-9]{4,7}")
COMMIT = re.compile(r"[0-9a-f]{40}")

SEVERITIES = ("none", "low", "medium", "high", "critical")
"""CVSS 3.1's words for scores, the least first."""

_SCALE = ((90, "critical"), (70, "high"), (40, "medium"), (1, "low"), (0, "none"))

CONTRADICTING = "contradicting-ranges"
"""Code of the finding about a record that says two things about a version."""

NAMED_MAX = 1000
"""Number of findings that are kept by name; others are counted only, so that hostile input cannot fill memory."""


def plain(text: str, limit: int) -> str:
    """Return `text` on one line without characters that would act on a terminal, at most `limit` characters long."""
    if len(text) <= limit and text.isprintable():
        return text.strip()
    return "".join(character if character.isprintable() else " " for character in text[:limit]).strip()


@dataclass(frozen=True, slots=True)
class FixCommit:
    """A commit that fixes, and the first version that contains it."""

    version: KernelVersion
    commit: str


@dataclass(frozen=True, slots=True)
class Introduction:
    """A commit that introduced the bug, the first version that contains it, and its fixes.

    `version` is BEGINNING and `commit` empty if the list does not know them. No fixes: not fixed on that branch.
    """

    version: KernelVersion
    commit: str
    fixes: tuple[FixCommit, ...]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Versions, from `first` on and before `end` (None: all later ones), about which a record says two things.

    `affected` is true if its version ranges call them affected and its commits do not, false the other way round.
    `alone` is true if no other version range of the record calls them unaffected.
    """

    first: KernelVersion
    end: KernelVersion | None
    affected: bool
    alone: bool

    def has(self, kernel: KernelVersion) -> bool:
        """Return whether the version is one of these; a candidate counts as its release."""
        order = kernel.order if kernel.rc is None else KernelVersion(branch=kernel.branch, level=kernel.level).order
        return self.first.order <= order and (self.end is None or order < self.end.order)

    @property
    def sentence(self) -> str:
        """Both statements, in one sentence."""
        where = f"From {self.first} on" + (f" and before {self.end}" if self.end is not None else "")
        if self.affected:
            return f"{where}, its version ranges say affected and its commits do not."
        return f"{where}, its commits say affected and its version ranges do not."


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One CVE of the kernel.

    `files` are paths inside the kernel's source. `score` is the CVSS 3.1 base score in tenths, None if the record
    has none, and `vector` its vector, possibly empty. `defect` is the reason if the ranges cannot be used, else empty.
    `overridden` is an administrator's reason for replacing the list's record, else empty. `older` is true if it comes
    from the list before the kernel's own (elivepatch.advisory.records.legacy_records). `contradictions` are the
    versions about which its commits and its published version ranges differ. `doubt` is one sentence if its JSON names
    commits that its ranges lack, so that no version is known to be fixed or not affected.
    """

    id: str
    title: str
    files: tuple[str, ...] = ()
    introductions: tuple[Introduction, ...] = ()
    score: int | None = None
    vector: str = ""
    defect: str = ""
    overridden: str = ""
    older: bool = False
    contradictions: tuple[Contradiction, ...] = ()
    doubt: str = ""

    @property
    def contradictory(self) -> tuple[str, ...]:
        """Everything about which the record contradicts itself, each in one sentence."""
        return (*([self.doubt] if self.doubt else []), *(one.sentence for one in self.contradictions))

    @property
    def severity(self) -> str:
        """CVSS 3.1's word for the score (specification, section 5), `unrated` if there is none."""
        if self.score is None:
            return "unrated"
        return next(word for least, word in _SCALE if self.score >= least)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFinding:
    """A file or entry that was set aside: a stable code, its name, one sentence."""

    code: str
    name: str
    message: str


@dataclass(slots=True)
class Findings:
    """All findings of a reading: counted by code, the first NAMED_MAX by name; `last` is the newest one's message."""

    named: list[RecordFinding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    last: str = field(default="", compare=False)

    def add(self, code: str, name: str, message: str) -> None:
        """Count one finding, and keep it by name while there is room."""
        self.counts[code] += 1
        self.last = plain(message, 300)
        if len(self.named) < NAMED_MAX:
            self.named.append(RecordFinding(code=code, name=plain(name, 200), message=plain(message, 300)))

    @property
    def total(self) -> int:
        """The number of findings, named or not."""
        return self.counts.total()


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The source of records: `kind` is git, directory or archive; `revision` the commit or the archive's SHA-256."""

    kind: str
    revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """All records of one reading.

    `listed` are the list's records and `overrides` those that an administrator put in their place, both by id.
    `rejected` are the ids that the list has withdrawn. `marks` has for each id the state of its files, so that the next
    reading can leave out unchanged ones; an id without a mark is read again. `newest` is when the newest of them was
    changed, as far as the source shows it: the date of a clone's commit, or of a file; None if it shows none.
    """

    listed: dict[str, Record]
    rejected: frozenset[str]
    origin: Origin
    findings: Findings = field(default_factory=Findings)
    marks: dict[str, bytes] = field(default_factory=dict)
    overrides: dict[str, Record] = field(default_factory=dict)
    newest: datetime | None = None

    def effective(self) -> list[Record]:
        """Return the records that count, overrides before the list, by year and number."""
        both = self.listed | self.overrides
        return [both[name] for name in sorted(both, key=id_order)]

    def find(self, name: str) -> Record | None:
        """Return the record of this id that counts, None if there is none."""
        return self.overrides.get(name) or self.listed.get(name)


def at_least(severity: str, least: str) -> bool:
    """Return whether a severity is at least `least`; that of a record without a score never is."""
    return severity in SEVERITIES and SEVERITIES.index(severity) >= SEVERITIES.index(least)


def id_order(name: str) -> tuple[int, int]:
    """Return the key that sorts CVE ids by year, then number."""
    _, year, number = name.split("-")
    return int(year), int(number)
