# SPDX-License-Identifier: GPL-2.0-or-later
"""The statement in a proof: one livepatch, what it was made from, the checks that it passed, and its trial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from elivepatch.model.build import PatchedFunction
from elivepatch.model.errors import TrustError
from elivepatch.model.kernel import BuildId, Digest, Release
from elivepatch.model.provenance import BASE, CONFIGURATION, SOURCE_PATCH, Material
from elivepatch.trust import canonical
from elivepatch.trust.provenance import BUILD_TYPE, BUILDER, PREDICATE_TYPE, STATEMENT, STATEMENT_TYPE
from elivepatch.trust.shape import misfit

MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedTrial:
    """Outcome of the livepatch's trial: `passed`, `partly`, or `none` for one that was not tried.

    `not_live` are the objects of the livepatch that were not live in the trial.
    """

    outcome: str
    not_live: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement whose document has the shape `provenance.STATEMENT` and does not contradict itself.

    `digest` and `size_bytes` are those of the module file. `series` are the digests of the source patches in the order
    in which they were applied. With `replace` set they are all the patches that are live once the module is.
    """

    document: dict[str, Any]

    @classmethod
    def of(cls, document: dict[str, Any]) -> Statement:
        """Return the statement; raises TrustError if a host would refuse the document."""
        _require_known(document)
        place = misfit(STATEMENT, document)
        if place is not None:
            raise _unfit(f"lacks {place or 'everything'}, has it twice, or has another value there than it can have")
        statement = cls(document)
        if len(statement.document["subject"]) != 1:
            raise _unfit("is not about exactly one module")
        fault = next(_contradictions(statement), None)
        if fault is not None:
            raise TrustError(
                "proof-contradiction",
                f"The proof contradicts itself: {fault}.",
                advice="Do not load the livepatch. Report it to the operator of the server that signed this.",
            )
        return statement

    def encode(self) -> bytes:
        """Return the bytes that are signed; raises TrustError if they are more than a host reads."""
        body = canonical.encode(self.document)
        if len(body) > MAX_BYTES:
            raise _unfit(f"has {len(body)} bytes, and a host reads {MAX_BYTES}")
        return body

    @classmethod
    def decode(cls, payload: bytes) -> Statement:
        """Read the output of `encode`; raises TrustError for any other bytes, also for another spelling."""
        statement = cls.of(canonical.decode(payload, limit=MAX_BYTES, what="statement in the proof"))
        if statement.encode() != payload:
            raise _unfit("is not spelled as a server spells it (canonical JSON)")
        return statement

    @property
    def name(self) -> str:
        """The livepatch's name."""
        return str(self.livepatch["name"])

    @property
    def digest(self) -> Digest:
        """SHA-256 of the module file."""
        return Digest(self.document["subject"][0]["digest"]["sha256"])

    @property
    def size_bytes(self) -> int:
        """Size of the module file."""
        return int(self.livepatch["size_bytes"])

    @property
    def release(self) -> Release:
        """Release of the kernel."""
        return Release(self.livepatch["release"])

    @property
    def build_id(self) -> BuildId:
        """Build-id of the kernel."""
        return BuildId(self.livepatch["build_id"])

    @property
    def arch(self) -> str:
        """Architecture of the kernel."""
        return str(self.livepatch["arch"])

    @property
    def build_key(self) -> Digest:
        """Name of the build on the server."""
        return Digest(self._definition["internalParameters"]["build_key"])

    @property
    def series(self) -> tuple[Digest, ...]:
        """Digests of the source patches, in order."""
        return tuple(Digest(one["sha256"]) for one in self.parameters["patches"])

    @property
    def replace(self) -> bool:
        """True if the livepatch replaces all earlier ones."""
        return bool(self.parameters["replace"])

    @property
    def functions(self) -> tuple[PatchedFunction, ...]:
        """The functions that it replaces."""
        return tuple(PatchedFunction(**one) for one in self.livepatch["functions"])

    @property
    def trial(self) -> StatedTrial:
        """The outcome of its trial."""
        reported = self.trial_document["reported"]
        not_live = tuple(one["object"] for one in reported["not_live"]) if reported is not None else ()
        return StatedTrial(outcome=self.trial_document["outcome"], not_live=not_live)

    @property
    def builder(self) -> str:
        """Fingerprint of the key of the server that built it."""
        return str(self._details["builder"]["id"]).removeprefix(BUILDER)

    @property
    def tools(self) -> dict[str, str]:
        """Versions of elivepatch and of each builder that made the livepatch, by name."""
        return dict(self._details["builder"]["version"])

    @property
    def job(self) -> str:
        """Name of the job on the server."""
        return str(self._details["metadata"]["invocationId"])

    @property
    def started(self) -> datetime:
        """Start of the job."""
        return _time(self._details["metadata"]["startedOn"])

    @property
    def finished(self) -> datetime:
        """End of the job."""
        return _time(self._details["metadata"]["finishedOn"])

    @property
    def materials(self) -> tuple[Material, ...]:
        """The materials of the livepatch, the series first."""
        return tuple(
            Material(kind=one["annotations"]["kind"], name=one["name"], digest=Digest(one["digest"]["sha256"]))
            for one in self._definition["resolvedDependencies"]
        )

    @property
    def checks(self) -> dict[str, int]:
        """The number of things that each passed check looked at, by the check's name."""
        return dict(self._details["elivepatch_checks"])

    @property
    def parameters(self) -> dict[str, Any]:
        """The build request (`provenance.PARAMETERS`)."""
        return dict(self._definition["externalParameters"])

    @property
    def livepatch(self) -> dict[str, Any]:
        """The livepatch (`provenance.LIVEPATCH`)."""
        return dict(self._details["elivepatch_livepatch"])

    @property
    def trial_document(self) -> dict[str, Any]:
        """The trial (`provenance.TRIAL`)."""
        return dict(self._details["elivepatch_trial"])

    @property
    def _definition(self) -> dict[str, Any]:
        return dict(self.document["predicate"]["buildDefinition"])

    @property
    def _details(self) -> dict[str, Any]:
        return dict(self.document["predicate"]["runDetails"])

    def as_dict(self) -> dict[str, Any]:
        """Return the part that a command prints when it loads the livepatch, ready for JSON."""
        return {
            **{name: self.livepatch[name] for name in ("name", "size_bytes", "release", "build_id", "arch")},
            "functions": self.livepatch["functions"],
            "digest": self.digest,
            "build_key": self.build_key,
            "series": list(self.series),
            "replace": self.replace,
            "trial": {"outcome": self.trial.outcome, "not_live": list(self.trial.not_live)},
        }


def _require_known(document: dict[str, Any]) -> None:
    """Raise TrustError if the statement is of another type, or names its module by another digest than SHA-256."""
    definition = _at(document, "predicate", "buildDefinition")
    for what, known, found in (
        ("type of statement", STATEMENT_TYPE, document.get("_type")),
        ("predicate", PREDICATE_TYPE, document.get("predicateType")),
        ("type of build", BUILD_TYPE, definition.get("buildType")),
    ):
        if found != known:
            raise TrustError(
                "proof-type",
                f"The proof has the {what} {str(found)[:80]!r}, and this client knows {known} only.",
                advice="Give the proof that the server made for this module; if it is newer, install its client.",
            )
    subjects = document.get("subject")
    first = subjects[0] if isinstance(subjects, list) and subjects else {}
    digests = first.get("digest") if isinstance(first, dict) else None
    if isinstance(digests, dict) and digests and "sha256" not in digests:
        raise TrustError(
            "proof-digest",
            f"The proof names its module by {', '.join(sorted(digests))[:80]}, and this client needs sha256.",
            advice="Give the proof that an elivepatch server made for this module.",
        )


def _contradictions(statement: Statement) -> Iterator[str]:
    parameters, livepatch, materials = statement.parameters, statement.livepatch, statement.materials
    if statement.document["subject"][0]["name"] != f"{statement.name}.ko":
        yield "its subject has another name than its livepatch"
    if parameters["kernel"] != statement.release:
        yield "its livepatch is for another kernel than its request"
    if tuple(one.digest for one in materials if one.kind == SOURCE_PATCH) != statement.series:
        yield "its materials are not the patches of its request"
    for kind in (CONFIGURATION, BASE):
        if sum(one.kind == kind for one in materials) != 1:
            yield f"it does not have exactly one material that is the {kind}"
    tools = statement.tools
    if "elivepatch" not in tools or parameters["builder"] not in tools or len(tools) != 2 + parameters["paranoid"]:
        yield "it does not name the builders that its request asks for"
    if not livepatch["functions"]:
        yield "its livepatch replaces no function"
    if not _has_times(statement):
        yield "it has a time that does not exist"
    yield from _trial_contradictions(statement)


def _trial_contradictions(statement: Statement) -> Iterator[str]:
    asked, trial = statement.parameters, statement.trial_document
    reported, tried = trial["reported"], trial["outcome"] != "none"
    if asked["trial"] is not tried:
        yield "it has a trial that its request did not ask for, or lacks one that it did"
    elif not tried:
        if any(trial[part] is not None for part in ("accelerator", "reported", "observed", "debug")):
            yield "there was no trial, and it says what was seen in it"
    elif reported is None or trial["accelerator"] is None:
        yield "there was a trial, and nothing is said of it"
    elif asked["thorough"] is not (trial["debug"] is not None):
        yield "it has a trial on a debugging kernel that its request did not ask for, or lacks one that it did"
    else:
        yield from _report_contradictions(statement, trial["outcome"], reported)


def _report_contradictions(statement: Statement, outcome: str, reported: dict[str, Any]) -> Iterator[str]:
    expectations = reported["expectations"]
    if len(expectations) != len(statement.parameters["expectations"]):
        yield "it has other expectations than its request"
    if not all(one["met"] for one in expectations if one["tried"]):
        yield "an expectation was not met, and the trial counts as a success"
    if (outcome == "partly") is not (bool(reported["not_live"]) or not all(one["tried"] for one in expectations)):
        yield "its outcome does not follow from what was live and tried"
    counted = {(one["object"], one["function"]) for one in reported["functions"]}
    if not counted <= {(one.object, one.name) for one in statement.functions}:
        yield "calls were counted of a function that the livepatch does not replace"


def _has_times(statement: Statement) -> bool:
    # Their order is not checked: a server's clock may have been set back during the job.
    try:
        return bool(statement.started and statement.finished)
    except ValueError:
        return False


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _at(document: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else {}


def _unfit(how: str) -> TrustError:
    return TrustError(
        "proof-malformed",
        f"The statement in the proof {how}.",
        advice="Fetch the livepatch and its proof again; if it happens again, ask the administrator of the server.",
    )
