# SPDX-License-Identifier: GPL-2.0-or-later
"""Changelog of a distribution's kernel: the CVEs it closed itself, the changes it added and those it reverted.

The format is that of deb-changelog(5). Debian's kernel names a CVE on the entry of the change that closes it, and lists
the changes of the stable updates it took under an entry that begins with `New upstream`; every other entry is a
change of its own. An upload of an older branch may have closed a CVE that this branch still
has, so its entries are kept apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from elivepatch.advisory.exposure.affected import Assessment, Evidence, State
from elivepatch.advisory.exposure.version import KernelVersion, listed_version
from elivepatch.advisory.records.record import CVE_ID, plain

_STANZA = re.compile(r"[a-z0-9][a-z0-9+.-]{0,60} \(([0-9][A-Za-z0-9.+:~-]{0,80})\)(?: |;)")
_BULLET = re.compile(r" {2,8}([*+-])\s+(\S.*)")
_PACKAGE = re.compile(r"(?:[0-9]+:)?([0-9]+(?:\.[0-9]+){1,3})(?:~(rc[0-9]{1,2}))?(?:[-~+].*)?")
_TAG = re.compile(r"(?:\[[a-z0-9*,!/ _-]{1,60}\]\s*)+")
_REFERENCES = re.compile(r"(?:\s*\((?:CVE-|XSA-|Closes:|regression)[^()]*\)+|[\s.:*]+)+$")
_REVERT = re.compile(r"""[Rr]evert\s+["'](.+)["']""")
_SUBJECT_LEAST = 16  # shorter ones ("Fix build", "net: fix") are not the same change because they read the same
_ENTRIES_MAX = 400_000
_LONGEST = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Changelog:
    """Changes of a distribution, up to its package version `version`.

    `closed` maps a CVE to the newest upload of this branch that names it; `elsewhere` those that only uploads of other
    branches name. `own` and `reverted` map subjects of changes (as their commits have them) to the upload that added
    them on top of the stable updates, or reverted them for good.
    """

    version: str
    closed: Mapping[str, str]
    elsewhere: Mapping[str, str]
    own: Mapping[str, str]
    reverted: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, read: Any) -> Changelog:
        """Rebuild from `as_dict`'s mapping; raises TypeError, KeyError or ValueError if it is not one."""
        tables = {name: dict(read[name]) for name in ("closed", "elsewhere", "own", "reverted")}
        texts = [read["version"], *(text for table in tables.values() for pair in table.items() for text in pair)]
        if not all(isinstance(text, str) and len(text) <= _LONGEST and text.isprintable() for text in texts):
            raise ValueError("changelog")
        if not all(CVE_ID.fullmatch(name) for table in ("closed", "elsewhere") for name in tables[table]):
            raise ValueError("changelog")
        return cls(version=read["version"], **tables)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry. `at` is its place in time (upload, entry), growing; `own` is true for a distribution's own change."""

    version: str
    branch: tuple[int, ...] | None
    at: tuple[int, int]
    own: bool
    text: str

    @property
    def subject(self) -> str:
        return _REFERENCES.sub("", _TAG.sub("", self.text, count=1))


def package_vanilla(package_version: str) -> KernelVersion | None:
    """Return the vanilla version that a package is built from (6.1.176 of 6.1.176-1, 7.2-rc3 of 7.2~rc3-1~exp1).

    None if the version's upstream part is not a version of Linux.
    """
    found = _PACKAGE.fullmatch(package_version)
    if found is None:
        return None
    return listed_version(found[1] + (f"-{found[2]}" if found[2] else ""))


def read_changelog(text: str) -> Changelog | None:
    """Return the changes that the changelog lists, None if it has no upload of a kernel."""
    entries = list(_entries(text))
    if not entries:
        return None
    newest = entries[0]
    branch = newest.branch
    reverts: dict[str, _Entry] = {}
    kept: dict[str, tuple[int, int]] = {}
    named: dict[str, list[_Entry]] = {}
    for entry in entries:
        here = entry.branch == branch
        revert = _REVERT.search(entry.text)
        if revert is not None and entry.own and here:
            _newest(reverts, " ".join(revert[1].split()), entry)
        elif here and len(entry.subject) >= _SUBJECT_LEAST:
            kept[entry.subject] = max(entry.at, kept.get(entry.subject, entry.at))
        for name in CVE_ID.findall(entry.text):
            named.setdefault(name, []).append(entry)
    gone = {subject: entry for subject, entry in reverts.items() if kept.get(subject, (-1, -1)) < entry.at}
    closed, elsewhere = {}, {}
    for name, of in named.items():
        here_still = [entry for entry in of if entry.branch == branch and entry.subject not in gone]
        if here_still:
            closed[name] = max(here_still, key=lambda entry: entry.at).version
        elif not any(entry.branch == branch for entry in of):
            elsewhere[name] = max(of, key=lambda entry: entry.at).version
    own = {
        entry.subject: entry.version
        for entry in reversed(entries)
        if entry.own
        and entry.branch == branch
        and len(entry.subject) >= _SUBJECT_LEAST
        and entry.subject not in gone
        and not _REVERT.search(entry.text)
    }
    return Changelog(
        version=newest.version,
        closed=closed,
        elsewhere=elsewhere,
        own=own,
        reverted={subject: entry.version for subject, entry in gone.items()},
    )


def with_changelog(assessment: Assessment, changelog: Changelog) -> Assessment:
    """Return the assessment of a distribution's kernel: its changelog counts more than its version.

    An affected CVE is fixed if an upload of this branch names it, or added the very change of that title; it is
    unknown if only an upload of another branch names it. A fixed one is unknown if its fix was reverted. A changelog
    does not show how many fixes an upload took: where the branch needs several, one that names the CVE decides nothing.
    """
    name, title = assessment.record.id, assessment.record.title
    if assessment.several and assessment.state in {State.AFFECTED, State.UNKNOWN}:
        where = changelog.closed.get(name) or changelog.own.get(title)
        if where:
            reason = f"the changelog of {where} has a fix of it, and the branch needs several"
            return _replaced(assessment, assessment.state, reason)
        return assessment
    if assessment.state in {State.AFFECTED, State.UNKNOWN}:
        if name in changelog.closed:
            return _replaced(assessment, State.FIXED, f"the changelog of {changelog.closed[name]} names it as closed")
        if title in changelog.own:
            return _replaced(
                assessment, State.FIXED, f"the changelog of {changelog.own[title]} has the change of this title"
            )
        if name in changelog.elsewhere:
            where = changelog.elsewhere[name]
            reason = f"only the changelog of {where}, another branch, names it: this branch may lack the fix"
            return _replaced(assessment, State.UNKNOWN, reason)
    if assessment.state is State.FIXED and title in changelog.reverted and name not in changelog.closed:
        reason = f"the changelog of {changelog.reverted[title]} shows that the fix was reverted"
        return _replaced(assessment, State.UNKNOWN, reason)
    return assessment


def _replaced(assessment: Assessment, state: State, reason: str) -> Assessment:
    evidence: list[Evidence] = [replace(one, reason=f"{one.reason}; {reason}") for one in assessment.evidence]
    return replace(assessment, state=state, evidence=tuple(evidence))


def _newest(entries: dict[str, _Entry], key: str, entry: _Entry) -> None:
    if key not in entries or entries[key].at < entry.at:
        entries[key] = entry


def _entries(text: str) -> Iterator[_Entry]:
    """Give every entry, the newest upload first; continuation lines are joined, addresses between entries left out."""
    upload, number, own = 0, 0, True
    version, branch = "", None
    lines: list[str] = []

    def finished() -> Iterator[_Entry]:
        if lines and version:
            yield _Entry(version, branch, (upload, number), own, plain(" ".join(lines), _LONGEST))
        lines.clear()

    for line in text.splitlines():
        bullet = _BULLET.match(line)
        if bullet is None and line.startswith("   ") and lines and "://" not in line:
            lines.append(line.strip())
            continue
        yield from finished()
        if stanza := _STANZA.match(line):
            version, upload, number, own = stanza[1], upload - 1, 0, True
            vanilla = package_vanilla(version)
            branch = vanilla.branch if vanilla is not None else None
        elif bullet is not None and number < _ENTRIES_MAX:
            number += 1
            if bullet[1] == "*":
                own = not bullet[2].startswith("New upstream ")
            lines.append(bullet[2])
    yield from finished()
