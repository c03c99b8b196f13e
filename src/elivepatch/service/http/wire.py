# SPDX-License-Identifier: GPL-2.0-or-later
"""Bodies of requests, validated, and of answers."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from elivepatch.model.build import COPIES_LIMIT, Builder, RequestReference, Result, Status, patches_of
from elivepatch.model.errors import Kind, UsageError
from elivepatch.model.kernel import Digest, parse_release
from elivepatch.model.predicate import SOURCE_LIMIT_BYTES
from elivepatch.model.series import PATCHES_LIMIT, SERIES_LIMIT_BYTES, PatchReference, SourcePatch
from elivepatch.model.trial import EXPECTATIONS_LIMIT
from elivepatch.service.access.accounts import Account, Role, Token
from elivepatch.service.access.audit import AuditEntry
from elivepatch.service.db.tables import DEFAULT_TENANT
from elivepatch.service.jobs.jobs import Job
from elivepatch.service.patches import too_large

MAX_DIGESTS = 2048
_NAME_LENGTH = 120


class Sent(BaseModel):
    """Body of a request: values are not converted, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PatchBody(Sent):
    """One source patch. `name` is shown to people and is never a path.

    Either `content` holds its bytes as base64 (RFC 4648 §4), or `sha256` names an uploaded patch.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"oneOf": [{"required": ["content"]}, {"required": ["sha256"]}]},
    )

    name: str = Field(max_length=4096, examples=["fix-meminfo.patch"])
    content: str = ""
    sha256: str = Field(default="", pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if len(self.model_fields_set & {"content", "sha256"}) != 1:
            message = "a patch has either content or sha256"
            raise ValueError(message)
        return self

    def patch(self) -> SourcePatch | PatchReference:
        """Return the patch, with its bytes if they were sent; raises UsageError if they are not base64."""
        if self.sha256:
            return PatchReference(display_name(self.name), Digest(self.sha256))
        try:
            content = base64.b64decode(self.content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError(
                "base64",
                "The content of a patch is not base64.",
                advice="Encode the patch's bytes as RFC 4648 §4 says.",
            ) from error
        return SourcePatch(display_name(self.name), content)


class BasePatchBody(Sent):
    """A patch that the running kernel was built with: its name for people, the SHA-256 of its bytes."""

    name: str = Field(max_length=4096)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class PredicateBody(Sent):
    """A program in C or shell that shows whether the hole is there; the suffix of its name is the language."""

    name: str = Field(max_length=90, examples=["lamp.expect.c"])
    source: str = Field(max_length=SOURCE_LIMIT_BYTES)


class ExpectationBody(Sent):
    """A command of the guest and a regular expression for its output while the livepatch is enabled.

    With a predicate, command and pattern count for nothing: they are its name and empty.
    """

    command: str = Field(max_length=4096)
    pattern: str = Field(max_length=4096)
    predicate: PredicateBody | None = None


class BuildBody(Sent):
    """A build request."""

    kernel: str = Field(max_length=200, examples=["6.1.0-50-cloud-amd64"], description="What `uname -r` prints.")
    patches: Annotated[list[PatchBody], Field(min_length=1, max_length=PATCHES_LIMIT)]
    expectations: Annotated[list[ExpectationBody], Field(max_length=EXPECTATIONS_LIMIT)] = []
    trial: bool = True
    thorough: bool = Field(default=False, description="Whether to try the series on a debugging kernel as well.")
    check_only: bool = False
    replace: bool = Field(default=True, description="Whether the livepatch replaces all earlier ones (atomic replace).")
    rewrite: bool = Field(default=False, description="Whether a check that refuses the series proposes a changed one.")
    builder: Builder = Field(default=Builder.OBJECTS, strict=False)
    paranoid: bool = Field(default=False, description="Whether a second builder must make the same livepatch.")
    copy_: int = Field(
        default=0, ge=0, le=COPIES_LIMIT, alias="copy", description="Number of another module of the same series."
    )
    base_patches: Annotated[list[BasePatchBody], Field(max_length=PATCHES_LIMIT)] = []
    priority: Literal["interactive", "automatic"] = "interactive"
    fresh: bool = Field(
        default=False, description="Build again although a job answers the request; needs the role operator."
    )

    def source_patches(self) -> list[SourcePatch | PatchReference]:
        """Return the patches; raises UsageError if one is not base64."""
        return [body.patch() for body in self.patches]

    def request(self, patches: Sequence[SourcePatch | PatchReference]) -> RequestReference:
        """Return the request for `patches`, which `source_patches` returned.

        Raises UsageError if the kernel's release or an expectation is malformed.
        """
        document = self.model_dump(mode="json", by_alias=True, exclude={"patches", "fresh", "priority"})
        document["patches"] = [{"name": patch.name, "sha256": patch.digest} for patch in patches]
        for patch in document["base_patches"]:
            patch["name"] = display_name(patch["name"])
        return RequestReference.from_json(document)


class DigestsBody(Sent):
    """Digests of patches."""

    sha256: Annotated[
        list[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]], Field(min_length=1, max_length=MAX_DIGESTS)
    ]


class MissingAnswer(BaseModel):
    """Digests of the patches that the server lacks."""

    missing: list[str]


def check_size(patches: Sequence[SourcePatch | PatchReference], sizes: Mapping[Digest, int]) -> None:
    """Raise UsageError if the patches together are too large; `sizes` has those that came without their bytes."""
    size = sum(len(one.content) if isinstance(one, SourcePatch) else sizes[one.digest] for one in patches)
    if size > SERIES_LIMIT_BYTES:
        raise too_large()


class PatchAnswer(BaseModel):
    """A source patch of a job."""

    name: str
    sha256: str


class BuildAnswer(BaseModel):
    """State of a job."""

    id: str
    status: Status
    result: Result | None
    kernel: str
    build_id: str = Field(description="The GNU build-id of the kernel, not of the job.")
    makes: Literal["livepatch", "base"]
    patches: list[PatchAnswer]
    trial: bool
    check_only: bool
    created_at: datetime
    started_at: datetime | None
    done_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> BuildAnswer:
        """Return the answer about `job`."""
        return cls(
            id=job.id,
            status=job.status,
            result=job.result,
            kernel=job.release,
            build_id=job.kernel_build_id,
            makes="base" if job.makes_base else "livepatch",
            patches=[PatchAnswer(name=patch.name, sha256=patch.digest) for patch in patches_of(job.request)],
            trial=job.request["trial"],
            check_only=job.request["check_only"],
            created_at=job.created_at,
            started_at=job.started_at,
            done_at=job.done_at,
        )


class PageAnswer(BaseModel):
    """Jobs, newest first. `next` is the `before` of the page that follows, null on the last one."""

    builds: list[BuildAnswer]
    next: str | None


class TokenBody(Sent):
    """A token to make. `kernel` binds it to the jobs for one release; without `days` it never expires."""

    name: str = Field(max_length=40, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    role: Role = Field(strict=False)
    tenant: str = Field(default=DEFAULT_TENANT, max_length=40, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kernel: str = Field(default="", max_length=100)
    days: int | None = Field(default=None, ge=1, le=3650)

    def account(self) -> Account:
        """Return the account; raises UsageError if the kernel is no release."""
        return Account(
            name=self.name, role=self.role, tenant=self.tenant, kernel=parse_release(self.kernel) if self.kernel else ""
        )


class TokenAnswer(BaseModel):
    """A token without its secret."""

    name: str
    role: Role
    tenant: str
    kernel: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, token: Token) -> Self:
        """Return the answer about `token`."""
        return cls.model_validate(token, from_attributes=True)


class TokensAnswer(BaseModel):
    """All tokens, by name."""

    tokens: list[TokenAnswer]


class MadeTokenAnswer(BaseModel):
    """A new token; its secret is never shown again."""

    name: str
    token: str


class EntryAnswer(BaseModel):
    """One line of the audit log."""

    number: int
    at: str
    who: str
    tenant: str
    action: str
    subject: str
    previous: str
    digest: str

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """Return the answer about `entry`."""
        return cls.model_validate(entry, from_attributes=True)


class AuditAnswer(BaseModel):
    """Lines of the audit log, oldest first. `next` is the `after` of the page that follows, null on the last one."""

    entries: list[EntryAnswer]
    next: int | None


class ReadyAnswer(BaseModel):
    """Readiness of the server, and the parts that it lacks."""

    status: Literal["ready", "not-ready"]
    lacks: list[str]


class ProblemAnswer(BaseModel):
    """Problem document (RFC 9457) with a stable code, the kind that decides the client's exit status, and advice."""

    type: str
    title: str
    status: int
    code: str
    kind: Kind
    message: str
    advice: str
    excerpt: str


class ProblemPart(BaseModel):
    """Problem of a series or of its job."""

    code: str
    kind: Kind
    message: str
    advice: str
    excerpt: str


class StepPart(BaseModel):
    """One change of a proposal, with its reason; `code` is the problem that it removes."""

    code: str
    path: str
    what: str
    why: str


class ProposalPart(BaseModel):
    """A patch in place of the submitted series; empty if none was found, with the reason in `refusal`."""

    patch: str
    steps: list[StepPart]
    refusal: str


class KernelAnswer(BaseModel):
    """A kernel that the server can build for."""

    release: str
    build_id: str
    arch: str
    config_digest: str
    compiler: str


class ReportAnswer(BaseModel):
    """Report of a done job. `build_id` is the kernel's; `module_sha256` is null if no module is served.

    `explained` are the differences of the objects that are not in the livepatch, each with the rule that explains it.
    """

    id: str
    status: Status
    result: Result
    kernel: str
    build_id: str
    functions: list[dict[str, Any]]
    problem: ProblemPart | None
    notes: list[dict[str, Any]]
    livepatch: dict[str, Any] | None
    module_sha256: str | None
    seconds: dict[str, float]
    trial: dict[str, Any] | None
    proposal: ProposalPart | None
    explained: list[dict[str, str]]
    base: KernelAnswer | None = Field(description="The kernel of a job that made a base.")


class KeyAnswer(BaseModel):
    """The key with which the server signs livepatches: Ed25519, 32 bytes in hexadecimal, and their SHA-256."""

    algorithm: str
    public_key: str
    fingerprint: str


class VersionAnswer(BaseModel):
    """Name and version of the server."""

    name: str
    version: str
    api: str


def display_name(text: str) -> str:
    """Return the name to show for a patch: the last part of a path, printable, at most 120 characters."""
    last = text.replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(character for character in last if _is_shown(character)).strip()
    return shown[:_NAME_LENGTH] or "patch"


def _is_shown(character: str) -> bool:
    # Cf holds the marks that reverse the direction of text; Cs, Cn and Co have no defined appearance.
    return character == " " or unicodedata.category(character)[0] not in {"C", "Z"}
