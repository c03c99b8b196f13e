# SPDX-License-Identifier: GPL-2.0-or-later
"""Record of one kernel's livepatches: sets of them, the current set, and the boot in which it was settled.

A record does not prove that a livepatch is live: sysfs does. It says which livepatches belong together, what they were
built from, which set was live before, and what to load after a boot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from elivepatch.model.errors import HostError
from elivepatch.model.kernel import BuildId, Digest, Release

SCHEMA = 1
KEPT_SETS = 20
_NAME = re.compile(r"[A-Za-z0-9_]{1,55}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPatch:
    """A source patch in a livepatch: its name for people, and the digest under which its text is kept."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SetEntry:
    """A recorded livepatch. Its module and proof are kept under `digest`, the module's."""

    name: str
    digest: Digest
    build_key: Digest
    replace: bool
    series: tuple[RecordedPatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LivepatchSet:
    """Livepatches that are live together, in the order of loading. `parent` is the set before this one."""

    number: int
    parent: int | None
    entries: tuple[SetEntry, ...]
    settled_at: str
    reason: str

    @property
    def names(self) -> tuple[str, ...]:
        """The livepatches' names in the order of loading."""
        return tuple(entry.name for entry in self.entries)

    @property
    def series(self) -> tuple[RecordedPatch, ...]:
        """Every source patch that is in, in order, each once."""
        return tuple(dict.fromkeys(patch for entry in self.entries for patch in entry.series))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The record of one build of a kernel. `boot_id` is the boot in which the current set was settled."""

    release: Release
    build_id: BuildId
    boot_id: str
    current: int
    sets: tuple[LivepatchSet, ...]

    @classmethod
    def empty(cls, release: Release, build_id: BuildId, boot_id: str) -> Record:
        """Return the record of a kernel on which nothing was ever loaded: set 0, without livepatches."""
        nothing = LivepatchSet(number=0, parent=None, entries=(), settled_at="", reason="nothing loaded yet")
        return cls(release=release, build_id=build_id, boot_id=boot_id, current=0, sets=(nothing,))

    @property
    def set(self) -> LivepatchSet:
        """The current set."""
        return next(one for one in self.sets if one.number == self.current)

    @property
    def previous(self) -> LivepatchSet | None:
        """The set before the current one, None if there is none or it is no longer kept."""
        return next((one for one in self.sets if one.number == self.set.parent), None)

    @property
    def known(self) -> dict[str, SetEntry]:
        """Every livepatch that is still kept, by name; of two with one name, the newer."""
        return {entry.name: entry for one in self.sets for entry in one.entries}

    def followed_by(self, entries: Sequence[SetEntry], *, boot_id: str, at: str, reason: str) -> Record:
        """Return the record after a change to `entries`; the set that was current becomes the parent."""
        number = max(one.number for one in self.sets) + 1
        fresh = LivepatchSet(number=number, parent=self.current, entries=tuple(entries), settled_at=at, reason=reason)
        kept = (*self.sets, fresh)[-KEPT_SETS:]
        return replace(self, boot_id=boot_id, current=number, sets=kept)

    def returned_to(self, number: int, *, boot_id: str) -> Record:
        """Return the record after going back to an earlier set."""
        return replace(self, boot_id=boot_id, current=number)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, read: object) -> Record:
        """Rebuild a record from `as_dict`'s mapping; raises HostError if it is not one."""
        try:
            return _record(read)
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise HostError(
                "state-malformed",
                "The record of this kernel's livepatches is damaged.",
                advice="`elivepatch status` shows what the kernel has; move the file away to begin an empty record.",
            ) from error


def _record(read: Any) -> Record:
    if read["schema"] != SCHEMA:
        message = "another schema"
        raise ValueError(message)
    record = Record(
        release=Release(_text(read["release"])),
        build_id=BuildId(_text(read["build_id"])),
        boot_id=_text(read["boot_id"]),
        current=int(read["current"]),
        sets=tuple(_set(item) for item in read["sets"]),
    )
    _ = record.set
    return record


def _set(read: Any) -> LivepatchSet:
    return LivepatchSet(
        number=int(read["number"]),
        parent=None if read["parent"] is None else int(read["parent"]),
        entries=tuple(_entry(item) for item in read["entries"]),
        settled_at=_text(read["settled_at"]),
        reason=_text(read["reason"]),
    )


def _entry(read: Any) -> SetEntry:
    return SetEntry(
        name=_matching(_NAME, read["name"]),
        digest=Digest(_matching(_DIGEST, read["digest"])),
        build_key=Digest(_matching(_DIGEST, read["build_key"])),
        replace=bool(read["replace"]),
        series=tuple(
            RecordedPatch(name=_text(item["name"]), digest=Digest(_matching(_DIGEST, item["digest"])))
            for item in read["series"]
        ),
    )


def _matching(pattern: re.Pattern[str], value: object) -> str:
    text = _text(value)
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return text


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = "not a text"
        raise TypeError(message)
    return value
