# SPDX-License-Identifier: GPL-2.0-or-later
"""Overlays: collections of source patches with their CVEs and kernels (docs/overlays.md has the schema).

An entry that cannot be used is named and left out, together with the entries that require it. A file of another schema,
or with an unknown key at its top, is not used at all: the key may change the meaning of the rest.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from elivepatch.advisory.exposure.version import KernelVersion, listed_version
from elivepatch.advisory.overlay.plain_yaml import NotPlain, read_yaml
from elivepatch.advisory.records.record import COMMIT, CVE_ID, Findings, plain
from elivepatch.model.errors import UsageError
from elivepatch.model.predicate import SUFFIXES
from elivepatch.model.trial import Expectation
from elivepatch.patterns import faults

FILE = "overlay.yaml"
SCHEMA = "1"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9._+@=,-]+(?:/[A-Za-z0-9._+@=,-]+)*", re.ASCII)
_TOP = {"overlay", "name", "maintainer", "description", "patches"}
_KEYS = {
    "id", "title", "files", "commit", "cves", "kernels", "order", "requires", "expect", "licence", "author",
}  # fmt: skip
_ENTRIES_MAX = 20_000
_ITEMS_MAX = 64
_TEXT_MAX = 300
_LEVEL_MAX = 9999  # beyond every stable update


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRange:
    """Vanilla versions from `first` to `last`, both included; None is open. `text` is as it was written."""

    text: str
    first: KernelVersion | None
    last: KernelVersion | None

    def contains(self, kernel: KernelVersion) -> bool:
        """Return whether a version lies in the range."""
        return (self.first is None or self.first.order <= kernel.order) and (
            self.last is None or kernel.order <= self.last.order
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayEntry:
    """One entry: either `files`, paths inside the overlay, or `commit`, for the places that the policy names.

    `predicates` are paths inside the overlay too.
    """

    id: str
    files: tuple[str, ...]
    commit: str
    cves: tuple[str, ...]
    kernels: tuple[KernelRange, ...]
    licence: str
    author: str
    title: str = ""
    order: int = 0
    requires: tuple[str, ...] = ()
    expect: tuple[Expectation, ...] = ()
    predicates: tuple[str, ...] = ()

    def fits(self, kernel: KernelVersion) -> bool:
        """Return whether the entry is for this kernel."""
        return any(one.contains(kernel) for one in self.kernels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """One overlay: its usable entries by id, and the findings about the others."""

    name: str
    maintainer: str = ""
    description: str = ""
    entries: Mapping[str, OverlayEntry] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    def series(self, entry: OverlayEntry) -> list[OverlayEntry]:
        """Return the entry after all entries that it requires, each once; lower `order` first among equals."""
        placed: dict[str, OverlayEntry] = {}
        pending = [(entry, False)]
        while pending:
            current, ready = pending.pop()
            if current.id in placed:
                continue
            if ready:
                placed[current.id] = current
                continue
            pending.append((current, True))
            needed = sorted((self.entries[name] for name in current.requires), key=lambda one: (-one.order, one.id))
            pending.extend((one, False) for one in needed)
        return list(placed.values())


def read_overlay(content: bytes, exists: Callable[[str], bool]) -> Overlay:
    """Return the overlay of an overlay.yaml; `exists` returns whether a path is a regular file inside the overlay.

    If the whole file cannot be used, the overlay has no entries, and a finding has the reason.
    """
    findings = Findings()
    try:
        read = read_yaml(content)
    except NotPlain as error:
        findings.add("overlay-file", FILE, f"It cannot be read: {error}.")
        return Overlay(name="", findings=findings)
    why = _unusable(read)
    if why:
        findings.add("overlay-file", FILE, why)
        return Overlay(name="", findings=findings)
    entries: dict[str, OverlayEntry] = {}
    for number, item in enumerate(read["patches"], start=1):
        made = _entry(item, exists)
        if isinstance(made, str):
            name = item.get("id", "") if isinstance(item, dict) else ""
            findings.add("overlay-entry", str(name) or f"entry {number}", made)
        elif made.id in entries:
            findings.add("overlay-entry", made.id, "Its id is that of an earlier entry.")
        else:
            entries[made.id] = made
    for name, why in _pattern_faults(entries.values()):
        findings.add("overlay-entry", name, f"It expects something that cannot be expected: {why}")
        entries.pop(name, None)
    return Overlay(
        name=read["name"],
        maintainer=plain(read.get("maintainer", ""), _TEXT_MAX),
        description=plain(read.get("description", ""), _TEXT_MAX),
        entries=_without_broken_requirements(entries, findings),
        findings=findings,
    )


def read_range(text: str) -> KernelRange | None:
    """Return the range that is written as VERSION, X.Y.* or FROM..TO (either may be left out), None for others."""
    if text.endswith(".*"):
        branch = listed_version(text[:-2])
        if branch is None or not branch.mainline or branch.rc is not None:
            return None
        start, end = KernelVersion(branch=branch.branch, rc=1), KernelVersion(branch=branch.branch, level=_LEVEL_MAX)
        return KernelRange(text=text, first=start, last=end)
    first_text, dots, last_text = text.partition("..")
    if not dots:
        last_text = first_text
    first, last = listed_version(first_text), listed_version(last_text)
    if (first is None and first_text) or (last is None and last_text) or not (first_text or last_text):
        return None
    if first is not None and last is not None and last.order < first.order:
        return None
    return KernelRange(text=text, first=first, last=last)


def _unusable(read: Any) -> str:
    if not isinstance(read, dict) or read.get("overlay") != SCHEMA:
        return f"It is not an overlay of schema {SCHEMA}: it must have `overlay: {SCHEMA}`."
    unknown = sorted(set(read) - _TOP)
    if unknown:
        return f"It has an unknown key {unknown[0][:60]!r}."
    name, patches = read.get("name"), read.get("patches")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        return "Its name is missing, or has characters that no name has."
    if not isinstance(patches, list) or len(patches) > _ENTRIES_MAX:
        return f"Its patches are not a list of at most {_ENTRIES_MAX} entries."
    if not all(isinstance(read.get(key, ""), str) for key in ("maintainer", "description")):
        return "Its maintainer or description is not a text."
    return ""


def _entry(item: Any, exists: Callable[[str], bool]) -> OverlayEntry | str:
    """Return an entry, or one sentence with the reason that it cannot be used."""
    if not isinstance(item, dict):
        return "It is not a mapping."
    unknown = sorted(set(item) - _KEYS)
    if unknown:
        return f"It has an unknown key {unknown[0][:60]!r}."
    name = item.get("id")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        return "Its id is missing, or has characters that no id has."
    texts = {key: item.get(key, "") for key in ("title", "licence", "author", "commit", "order")}
    if not all(isinstance(text, str) for text in texts.values()):
        return "Its title, licence, author, commit or order is not a text."
    lists = {key: item.get(key, []) for key in ("files", "cves", "kernels", "requires", "expect")}
    for key, values in lists.items():
        if not isinstance(values, list) or len(values) > _ITEMS_MAX or not all(isinstance(one, str) for one in values):
            return f"Its {key} are not a list of at most {_ITEMS_MAX} texts."
    wrong = _wrong_values(texts, lists, exists)
    if wrong:
        return wrong
    ranges = [read_range(text) for text in lists["kernels"]]
    try:
        expect = tuple(Expectation.parse(text) for text in lists["expect"] if not _is_predicate(text))
    except UsageError as error:
        return f"It expects something that cannot be expected: {error.problem.message}"
    return OverlayEntry(
        id=name,
        files=tuple(lists["files"]),
        commit=texts["commit"],
        cves=tuple(lists["cves"]),
        kernels=tuple(one for one in ranges if one is not None),
        licence=plain(texts["licence"], _TEXT_MAX),
        author=plain(texts["author"], _TEXT_MAX),
        title=plain(texts["title"], _TEXT_MAX),
        order=int(texts["order"] or 0),
        requires=tuple(lists["requires"]),
        expect=expect,
        predicates=tuple(filter(_is_predicate, lists["expect"])),
    )


def _pattern_faults(entries: Iterable[OverlayEntry]) -> Iterator[tuple[str, str]]:
    """Yield the id of each entry with a pattern that cannot be used, and the first reason. Strangers wrote them."""
    given = [(entry.id, one.pattern) for entry in entries for one in entry.expect]
    found = zip(given, faults([pattern for _, pattern in given]), strict=True)
    yield from {name: why for (name, _), why in reversed(list(found)) if why}.items()


def _is_predicate(expected: str) -> bool:
    """Return whether an expectation is the path of a program, and not a command with a pattern."""
    return "=~" not in expected and expected.endswith(SUFFIXES)


def _wrong_values(texts: Mapping[str, str], lists: Mapping[str, list[str]], exists: Callable[[str], bool]) -> str:
    for path in (*lists["files"], *filter(_is_predicate, lists["expect"])):
        if not _PATH.fullmatch(path) or posixpath.normpath(path) != path or ".." in path.split("/"):
            return f"{plain(path, 120)!r} leads outside of the overlay, or is not a plain path."
        if not exists(path):
            return f"{path[:120]!r} is not a file of the overlay."
    bad_cve = next((one for one in lists["cves"] if not CVE_ID.fullmatch(one)), None)
    bad_kernel = next((one for one in lists["kernels"] if read_range(one) is None), None)
    checks = (
        (not lists["files"] and not texts["commit"], "It has neither files nor a commit."),
        (bool(lists["files"] and texts["commit"]), "It has both files and a commit."),
        (bool(texts["commit"]) and not COMMIT.fullmatch(texts["commit"]), "Its commit is not a whole commit id."),
        (not lists["cves"], "It names no CVE that it closes."),
        (bad_cve is not None, f"{plain(bad_cve or '', 40)!r} is not the id of a CVE."),
        (not lists["kernels"], "It names no kernel that it is for."),
        (bad_kernel is not None, f"{plain(bad_kernel or '', 60)!r} is not a range of kernel versions."),
        (not texts["licence"].strip(), "It does not name its licence."),
        (not texts["author"].strip(), "It does not name its author."),
        (re.fullmatch(r"(?:-?[0-9]{1,6})?", texts["order"]) is None, "Its order is not a whole number."),
    )
    return next((sentence for wrong, sentence in checks if wrong), "")


def _without_broken_requirements(entries: dict[str, OverlayEntry], findings: Findings) -> dict[str, OverlayEntry]:
    """Leave out entries that require one that is missing, or in the end themselves."""
    waiting = {one.id: set(one.requires) for one in entries.values()}
    wanted_by: dict[str, list[str]] = {}
    for one in entries.values():
        for name in one.requires:
            wanted_by.setdefault(name, []).append(one.id)
    usable: dict[str, OverlayEntry] = {}
    ready = [name for name, requires in waiting.items() if not requires]
    while ready:
        name = ready.pop()
        usable[name] = entries[name]
        for other in wanted_by.get(name, ()):
            waiting[other].discard(name)
            if not waiting[other]:
                ready.append(other)
    left = {name: entry for name, entry in entries.items() if name not in usable}
    for one in left.values():
        missing = [name for name in one.requires if name not in entries]
        if missing:
            findings.add("overlay-requires", one.id, f"It requires {plain(missing[0], 80)!r}, which is missing.")
        else:
            findings.add(
                "overlay-cycle", one.id, "An entry that it requires needs it in turn, or cannot be used itself."
            )
    return {name: entries[name] for name in entries if name in usable}
