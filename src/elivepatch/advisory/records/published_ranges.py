# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges that the JSON of a record publishes for scanners: of versions and of commits (CVE record format 5).

A record has several blocks. In a block, the last entry that matches a version gives its status, else the block's
default; the record calls a version affected if any block does (github.com/CVEProject/cve-schema, docs/versions.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from elivepatch.advisory.exposure.version import BEGINNING, KernelVersion, listed_version, next_release
from elivepatch.advisory.records.record import COMMIT

FIRST_COMMIT = "1da177e4c3f41524e886b7f1b8a0c1fc7321cac2"
"""The first commit of the kernel's git history (2.6.12-rc2); the list's JSON has it for an unknown introduction."""

_ENTRIES_MAX = 4_000


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Versions from `first` on, before `end`; None: to the newest of all."""

    first: KernelVersion
    end: KernelVersion | None
    affected: bool

    def has(self, kernel: KernelVersion) -> bool:
        """Return whether the version lies in the range."""
        return self.first.order <= kernel.order and (self.end is None or kernel.order < self.end.order)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of version ranges with the status of every version that none of them has."""

    affected: bool
    ranges: tuple[VersionRange, ...]


@dataclass(frozen=True, slots=True)
class PublishedRanges:
    """All ranges of one record. `commits` are pairs of introducing and fixing commit, "" for no fix.

    `defect` is one sentence if an entry cannot be read; the ranges are not to be used then.
    """

    blocks: tuple[Block, ...] = ()
    commits: frozenset[tuple[str, str]] = frozenset()
    defect: str = ""

    def affected(self, kernel: KernelVersion) -> bool:
        """Return whether any block calls the version affected."""
        return any(_status(block, kernel)[0] for block in self.blocks)

    def cleared(self, kernel: KernelVersion) -> bool:
        """Return whether a range of any block, and not only its default, calls the version unaffected."""
        return any(_status(block, kernel) == (False, True) for block in self.blocks)

    def borders(self) -> Iterator[KernelVersion]:
        """Give each version at which a range begins or after which it has ended."""
        for block in self.blocks:
            for one in block.ranges:
                yield one.first
                if one.end is not None:
                    yield one.end


def _status(block: Block, kernel: KernelVersion) -> tuple[bool, bool]:
    """Return the status that a block gives to a version, and whether a range of it says so."""
    for one in reversed(block.ranges):
        if one.has(kernel):
            return one.affected, True
    return block.affected, False


def parse_ranges(parts: list[Any]) -> PublishedRanges:
    """Return the ranges of `containers.cna.affected`; hostile input gives a defect, never an exception."""
    blocks, commits, count = [], set(), 0
    for part in parts:
        if not isinstance(part, dict):
            return PublishedRanges(defect="An entry of its published ranges is no object.")
        entries = part.get("versions", [])
        count += len(entries) if isinstance(entries, list) else _ENTRIES_MAX + 1
        if count > _ENTRIES_MAX:
            return PublishedRanges(defect=f"Its published ranges are no list of at most {_ENTRIES_MAX}.")
        ranges = []
        for entry in entries:
            if isinstance(entry, dict) and entry.get("versionType") == "git":
                pair = _commits(entry)
                if pair is not None:
                    commits.add(pair)
                continue
            read = _range(entry)
            if read is None:
                return PublishedRanges(defect="One of its published version ranges cannot be read.")
            ranges.append(read)
        if ranges or part.get("defaultStatus") == "affected":
            blocks.append(Block(part.get("defaultStatus") == "affected", tuple(ranges)))
    return PublishedRanges(blocks=tuple(blocks), commits=frozenset(commits))


def _commits(entry: dict[str, Any]) -> tuple[str, str] | None:
    begin, end = entry.get("version"), entry.get("lessThan", "")
    if not isinstance(begin, str) or not isinstance(end, str) or entry.get("status") != "affected":
        return None
    return (begin, end) if COMMIT.fullmatch(begin) and (not end or COMMIT.fullmatch(end)) else None


def _range(entry: Any) -> VersionRange | None:
    if not isinstance(entry, dict) or entry.get("status") not in {"affected", "unaffected"}:
        return None
    first = _version(entry.get("version"))
    if first is None:
        return None
    end: KernelVersion | None
    if "lessThan" in entry:
        end = _end(entry["lessThan"])
        if end is None:
            return None
    elif "lessThanOrEqual" not in entry:
        end = _after(first)
    elif entry["lessThanOrEqual"] == "*":
        end = None
    elif isinstance(entry["lessThanOrEqual"], str) and entry["lessThanOrEqual"].endswith(".*"):
        last = _version(entry["lessThanOrEqual"].removesuffix(".*"))
        if last is None:
            return None
        end = next_release(last)
    else:
        last = _version(entry["lessThanOrEqual"])
        if last is None:
            return None
        end = _after(last)
    return VersionRange(first, end, entry["status"] == "affected")


def _version(text: Any) -> KernelVersion | None:
    if not isinstance(text, str):
        return None
    return BEGINNING if text == "0" else listed_version(text)


def _end(text: Any) -> KernelVersion | None:
    """Return the version at which a range ends; the list writes 5.20, which never was, for the end of 5.19.y."""
    found = _version(text)
    parts = re.fullmatch(r"([0-9]{1,2})\.([0-9]{1,2})", text) if found is None and isinstance(text, str) else None
    last = listed_version(f"{parts[1]}.{int(parts[2]) - 1}") if parts else None
    return next_release(last) if last is not None else found


def _after(version: KernelVersion) -> KernelVersion:
    """Return the version that follows directly, in its branch."""
    if version.rc is not None:
        return KernelVersion(branch=version.branch, level=version.level)
    return KernelVersion(branch=version.branch, level=version.level + 1)
