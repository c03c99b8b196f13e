# SPDX-License-Identifier: GPL-2.0-or-later
"""Exposure of one kernel to CVEs, in stages: its version, its configuration, its loaded modules, its livepatches.

Each stage has three results, yes, no and unknown; unknown counts as exposed. docs/cve.md derives them.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from elivepatch.advisory.exposure.affected import Assessment, State, assess
from elivepatch.advisory.exposure.changelog import with_changelog
from elivepatch.advisory.exposure.sources import KernelSources
from elivepatch.advisory.exposure.verdicts import FixOutcome, FixVerdict
from elivepatch.advisory.exposure.version import KernelVersion
from elivepatch.advisory.records.record import Record
from elivepatch.model.kernel import VMLINUX

_CODE = (".c", ".S", ".rs")
_NOT_THE_KERNEL = ("Documentation/", "tools/", "samples/", "scripts/", "LICENSES/", "usr/")
# Built, but into images of their own whose debug information is not shipped, so that no list of objects has them.
_OWN_IMAGES = ("arch/x86/boot/", "arch/x86/realmode/", "arch/x86/purgatory/", "arch/x86/entry/vdso/")


class Certainty(enum.StrEnum):
    """A result that may not be known."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The result of one stage and its reason."""

    certainty: Certainty
    reason: str

    def as_dict(self) -> dict[str, str]:
        """Return a JSON-ready mapping of the fields."""
        return {"certainty": str(self.certainty), "reason": self.reason}


NOT_ASKED = Stage(certainty=Certainty.UNKNOWN, reason="not known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A livepatch that closes a CVE, and its functions that carry the fix, as `object:function`."""

    livepatch: str
    functions: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The livepatch and its functions, on one line."""
        shown = ", ".join(self.functions[:4]) + (" ..." if len(self.functions) > 4 else "")
        return f"{self.livepatch}{': ' if shown else ''}{shown}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureSubject:
    """The kernel under assessment.

    `sources` are those it was built from, None if they are not known. `modules` are the names of the loaded modules,
    None if it is not this host's kernel. `closings` maps a CVE to the livepatch that closes it, None if that is not
    known. `verdicts` maps a CVE to the verdict on its fix.
    """

    version: KernelVersion
    sources: KernelSources | None = None
    modules: Collection[str] | None = None
    closings: Mapping[str, Closing] | None = None
    verdicts: Mapping[str, FixVerdict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One CVE on one kernel. `parents` are the known objects that its sources were built into.

    `verdict` is that on its fix by the server's present builder, None if there is none.
    """

    assessment: Assessment
    built: Stage
    loaded: Stage
    closed: Closing | None
    parents: tuple[str, ...] = ()
    verdict: FixVerdict | None = None

    @property
    def record(self) -> Record:
        """The record of the CVE."""
        return self.assessment.record

    @property
    def outcome(self) -> FixOutcome:
        """The use of the fix: a reboot is needed only where a newer kernel of the branch has it."""
        outcome = self.verdict.outcome if self.verdict is not None else FixOutcome.UNTRIED
        if outcome is FixOutcome.NEEDS_REBOOT and not self.assessment.newer:
            return FixOutcome.FIX_INCOMPLETE
        return outcome

    @property
    def concerned(self) -> bool:
        """True if the version is affected, or may be, and this configuration builds the code, or may."""
        return self.assessment.state in {State.AFFECTED, State.UNKNOWN} and self.built.certainty is not Certainty.NO

    @property
    def open(self) -> bool:
        """True if the CVE is open on this kernel, as far as is known."""
        return self.concerned and self.closed is None


def expose(records: Iterable[Record], subject: ExposureSubject) -> list[Exposure]:
    """Return the exposure of the kernel to each record's CVE, in their order."""
    sources = subject.sources
    exposed = []
    for record in records:
        found = assess(record, subject.version)
        if sources is not None and sources.changelog is not None:
            found = with_changelog(found, sources.changelog)
        built, parents = _built(record, sources)
        noted = verdict = subject.verdicts.get(record.id)
        if verdict is not None and (sources is None or verdict.builder != sources.builder):
            verdict = None
        if verdict is not None and verdict.outcome is FixOutcome.NOTHING_TO_DO:
            found, built = _shown_by_source(found, built, verdict)
        exposed.append(
            Exposure(
                assessment=found,
                built=built,
                loaded=_loaded(built, parents, subject.modules),
                closed=_closed(found, (subject.closings or {}).get(record.id), noted),
                parents=parents,
                verdict=verdict,
            )
        )
    return exposed


def _closed(found: Assessment, closing: Closing | None, noted: FixVerdict | None) -> Closing | None:
    """Return the closing, None if the list names a part of the fix by now that was not among its patches.

    A record that leaves a doubt which commits are the fix is not closed by any patches.
    """
    if found.record.doubt:
        return None
    if closing is None or noted is None or found.state is not State.AFFECTED:
        return closing
    # Without a commit in its branch, the fix came from a person, and all that the list names is another branch's.
    wanted = {one.fixed_commit for one in found.evidence} if noted.commits or found.newer else set()
    return closing if noted.closes(wanted) else None


def _shown_by_source(found: Assessment, built: Stage, verdict: FixVerdict) -> tuple[Assessment, Stage]:
    """Return state and stage as this kernel's own source shows them: the server applied the fix to it."""
    if verdict.problem is None:
        return found, built
    if verdict.problem.code != "already-applied":
        return found, Stage(certainty=Certainty.NO, reason=f"the server tried the fix: {verdict.problem.message}")
    if found.state is State.NOT_AFFECTED:
        return found, built
    reason = "this kernel's source contains the fix"
    evidence = tuple(replace(one, reason=f"{one.reason}; {reason}") for one in found.evidence)
    return replace(found, state=State.FIXED, evidence=evidence), built


def _built(record: Record, sources: KernelSources | None) -> tuple[Stage, tuple[str, ...]]:
    """Return whether the kernel contains code of the record's files, and the objects that do."""
    if sources is None:
        return NOT_ASKED, ()
    parents = {parent for file in record.files for parent in sources.sources.get(file, ())}
    if parents:
        names = sorted(parents, key=lambda name: (name != VMLINUX, name))
        return Stage(certainty=Certainty.YES, reason=f"built into {', '.join(names[:4])}"), tuple(names)
    doubts = [(file, doubt) for file in record.files if (doubt := _doubt(file, sources))]
    if doubts or not record.files:
        file, doubt = doubts[0] if doubts else ("the record", "names no file")
        return Stage(certainty=Certainty.UNKNOWN, reason=f"{file} {doubt}"), ()
    return Stage(certainty=Certainty.NO, reason=f"this configuration does not build {record.files[0]}"), ()


def _doubt(file: str, sources: KernelSources) -> str:
    """Return why a file without an object may be in the kernel all the same; empty if it cannot be."""
    if file.startswith(_NOT_THE_KERNEL) or (file.startswith("arch/") and not file.startswith("arch/x86/")):
        return ""
    if file.startswith(_OWN_IMAGES):
        return "goes into an image of its own"
    if file.endswith(".h"):
        return "is a header: its users are not known"
    if file.endswith(_CODE) and file not in sources.sources:
        return "is not in this kernel's source: the code may be elsewhere in it"
    return ""


def _loaded(built: Stage, parents: tuple[str, ...], modules: Collection[str] | None) -> Stage:
    """Return whether the code is in memory now. A module that is not loaded can be, often by any user."""
    if built.certainty is Certainty.NO:
        return Stage(certainty=Certainty.NO, reason=built.reason)
    if VMLINUX in parents:
        return Stage(certainty=Certainty.YES, reason="in the kernel itself")
    if modules is None or not parents:
        return Stage(
            certainty=Certainty.UNKNOWN, reason=built.reason if modules is not None else "not this host's kernel"
        )
    loaded = [name for name in parents if name in modules]
    if loaded:
        return Stage(certainty=Certainty.YES, reason=f"{', '.join(loaded[:4])} is loaded")
    return Stage(certainty=Certainty.NO, reason=f"{', '.join(parents[:4])} is not loaded")
