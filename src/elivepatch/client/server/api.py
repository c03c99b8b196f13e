# SPDX-License-Identifier: GPL-2.0-or-later
"""Client of the server's API, version 1 (docs/api.md).

Nothing in an answer is trusted: shapes are checked, sizes are bounded, files are compared with their digests.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from elivepatch.advisory.exposure.sources import MAX_BYTES as MAX_SOURCES_BYTES
from elivepatch.advisory.exposure.sources import KernelSources, etag
from elivepatch.advisory.records.index import FILE_MAX
from elivepatch.client.server.errors import Refused
from elivepatch.client.server.report import Report, read_report
from elivepatch.client.server.transport import MAX_ANSWER_BYTES, NOT_MODIFIED, Transport, bounded
from elivepatch.files.digest import sha256
from elivepatch.model.build import BuildRequest, RequestReference, Status
from elivepatch.model.errors import TrustError, UsageError
from elivepatch.model.kernel import BuildId, Digest, KernelIdentity, parse_release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Event
from elivepatch.model.series import SERIES_LIMIT_BYTES, SourcePatch
from elivepatch.settings import ClientSettings
from elivepatch.trust.document import HEADER, RECORDS, SOURCES, require_signed
from elivepatch.trust.envelope import MAX_BYTES as MAX_PROOF_BYTES
from elivepatch.trust.keys import PublicKey

INLINE_BYTES = 256 * 1024
"""Size of the patches that a request holds itself, as base64; a larger series is uploaded patch by patch."""

_MAX_FILE_BYTES = 256 * 1024 * 1024
# The server sends a comment every 10 s if nothing happens: a longer silence is a lost connection.
_EVENT_SILENCE_S = 45.0
_DIGESTS_AT_ONCE = 2000
_JOB = re.compile(r"[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """Event of a job. `progress` is None for an event that is not shown to people."""

    id: int
    progress: Event | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """Number and size of what was uploaded."""

    count: int
    bytes: int


class ServerClient:
    """One server. Every method raises Unreachable, Refused, or EnvironmentFault for a malformed answer.

    `pinned` are the keys that this host trusts; documents are not verified if there are none.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        pinned: Collection[PublicKey] = (),
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._http = Transport(settings, transport=transport)
        self._pinned = pinned
        self.url = self._http.url
        self.limit_s = settings.limit_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # Builds

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that the server can build for."""
        with self._http.translated_errors():
            return [_kernel(kernel) for kernel in self._http.json("GET", "/v1/kernels")["kernels"]]

    def request_kernel(self, asked: KernelRequest) -> str | None:
        """Ask for the base of a kernel and return the name of the job that makes it, None if the server has it."""
        with self._http.translated_errors():
            job = self._http.send_json("POST", "/v1/kernels", asked.to_json())["job"]
            return parse_job(job) if job is not None else None

    def upload(self, contents: Mapping[Digest, bytes]) -> Uploaded:
        """Upload those of the contents that the server lacks; return their number and size. Digests are not checked."""
        missing = self.missing(list(contents))
        for digest in missing:
            headers = {"Content-Type": "application/octet-stream"}
            self._http.answer("PUT", f"/v1/patches/{digest}", content=contents[digest], headers=headers)
        return Uploaded(count=len(missing), bytes=sum(len(contents[digest]) for digest in missing))

    def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return those of the patches that the server lacks."""
        missing: list[Digest] = []
        for start in range(0, len(digests), _DIGESTS_AT_ONCE):
            part = digests[start : start + _DIGESTS_AT_ONCE]
            answer = self._http.send_json("POST", "/v1/patches/missing", {"sha256": part})
            with self._http.translated_errors():
                missing += [Digest(one) for one in answer["missing"] if one in part]
        return missing

    def submit_reference(self, request: RequestReference) -> str:
        """Submit a request whose patches the server has, and return the job's name."""
        return self._submit(request.to_json())

    def submit(self, request: BuildRequest, *, fresh: bool = False, automatic: bool = False) -> str:
        """Submit a build request and return the job's name; the same request gives the same job while that is usable.

        Small patches are part of the request. If there are more of them than `INLINE_BYTES`, those that the server
        lacks are uploaded first and all are named by digest. Raises UsageError if the series is too large.

        `fresh` asks for a build although there is an answer; an `automatic` job waits behind those of people.
        """
        patches = request.series.patches
        if sum(len(patch.content) for patch in patches) > SERIES_LIMIT_BYTES:
            raise UsageError(
                "request-too-large",
                "The patches are too large to send: 24 MiB is the limit of one request.",
                advice="Send only what the fix needs.",
            )
        document = request.to_json()
        document |= ({"fresh": True} if fresh else {}) | ({"priority": "automatic"} if automatic else {})
        if sum(_encoded_bytes(patch) for patch in patches) <= INLINE_BYTES or not self._upload_missing(patches):
            return self._submit(document | {"patches": [_with_content(patch) for patch in patches]})
        try:
            return self._submit(document)
        except Refused as error:
            if error.problem.code != "blob-unknown":
                raise
        # A patch was removed, or found damaged, after the server had said that it has it.
        self._upload_missing(patches)
        return self._submit(document)

    def is_done(self, job: str) -> bool:
        """Return whether the job has ended."""
        return self._is_done("GET", job)

    def cancel(self, job: str) -> bool:
        """Cancel a job; return whether it has ended already. A running job ends within seconds."""
        return self._is_done("DELETE", job)

    def report(self, job: str) -> Report:
        """Return the report of a done job."""
        path = f"/v1/builds/{parse_job(job)}/report"
        with self._http.translated_errors():
            return read_report(self._http.json("GET", path), job=job)

    def events(self, job: str, *, after: int) -> Iterator[ServerEvent]:
        """Yield the events of a job from after the event `after` (0: from the first one), until it is done."""
        path = f"/v1/builds/{parse_job(job)}/events"
        timeout = httpx2.Timeout(self._http.timeout_s, read=_EVENT_SILENCE_S)
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if response.status_code != httpx2.codes.OK:
                self._http.body(response, MAX_ANSWER_BYTES)
            for event in httpx2.EventSource(response):
                if event.id:
                    yield ServerEvent(id=int(event.id), progress=_progress(event.event, event.data))

    def download(self, job: str, what: Literal["module", "log", "console"], digest: Digest | None = None) -> bytes:
        """Return one of a job's files; raises TrustError if its bytes do not have its digest.

        The digest is `digest`, for example that of the report, else the one of the answer's Repr-Digest (RFC 9530).
        """
        with self._http.stream("GET", f"/v1/builds/{parse_job(job)}/{what}") as response:
            content = self._http.body(response, _MAX_FILE_BYTES)
            expected = digest or _repr_digest(response.headers)
        if sha256(content) != expected:
            raise TrustError(
                "download-digest",
                f"The job's {what} was changed on its way from the server.",
                advice="Follow the job again to download it again; if this repeats, check the proxies in between.",
            )
        return content

    # Signatures

    def public_key(self) -> PublicKey:
        """Return the server's public key. It proves nothing until a person has compared its fingerprint.

        Raises TrustError if the server has none.
        """
        with self._signed("has no key to sign with", "enrol again"), self._http.translated_errors():
            return PublicKey.from_hex(str(self._http.json("GET", "/v1/key")["public_key"]))

    def proof(self, job: str) -> bytes:
        """Return the proof of a job's livepatch, unverified; raises TrustError if there is none."""
        path = f"/v1/builds/{parse_job(job)}/proof"
        with self._signed("hands out no proof of this livepatch", "have the livepatch built again"):
            return self._http.answer("GET", path, limit=MAX_PROOF_BYTES)

    # Advisories and hosts

    def sources(self, release: str, *, known: bytes | None) -> bytes:
        """Return the document about a kernel's sources, or `known` if that is still the newest.

        Raises TrustError if no pinned key signed it, or if it describes another kernel.
        """
        path = f"/v1/kernels/{parse_release(release)}/sources"
        content = self._document(path, SOURCES, known, MAX_SOURCES_BYTES)
        with self._http.translated_errors():
            described = KernelSources.decode(content).release
        if described != release:
            raise TrustError(
                "other-kernel",
                f"The server at {self.url} describes {described}, but {release} was asked for.",
                advice="Ask the server's operator.",
            )
        return content

    def records(self, *, known: bytes | None) -> bytes | None:
        """Return the index of CVE records, `known` if that is still the newest, None if the server keeps none.

        Raises TrustError if no pinned key signed it.
        """
        try:
            return self._document("/v1/cve/records", RECORDS, known, FILE_MAX)
        except Refused as refusal:
            # A server older than this client does not know the path.
            if refusal.problem.code in {"records-unknown", "not-found"}:
                return None
            raise

    def report_host(self, host: str, report: Mapping[str, Any]) -> None:
        """Report how a run of `elivepatch auto` ended on `host` (docs/api.md)."""
        self._http.send_json("PUT", f"/v1/hosts/{host}", report)

    def _is_done(self, method: str, job: str) -> bool:
        path = f"/v1/builds/{parse_job(job)}"
        with self._http.translated_errors():
            return Status(self._http.json(method, path)["status"]) is Status.DONE

    def _upload_missing(self, patches: Sequence[SourcePatch]) -> bool:
        """Upload the patches that the server lacks; return False if it is older than this client and takes none."""
        try:
            self.upload({patch.digest: patch.content for patch in patches})
        except Refused as refusal:
            if refusal.problem.code == "not-found":
                return False
            raise
        return True

    def _submit(self, document: Mapping[str, Any]) -> str:
        with self._http.translated_errors():
            return parse_job(self._http.send_json("POST", "/v1/builds", document)["id"])

    @contextmanager
    def _signed(self, lack: str, retry: str) -> Iterator[None]:
        """Turn a refusal of the block into the TrustError `unsigned`."""
        try:
            yield
        except Refused as refusal:
            raise TrustError(
                "unsigned",
                f"The server at {self.url} {lack}: {refusal.problem.message}",
                advice=f"A host loads signed livepatches only: bring the server up to date, then {retry}.",
            ) from refusal

    def _document(self, path: str, kind: str, known: bytes | None, limit: int) -> bytes:
        headers = {"If-None-Match": etag(known)} if known is not None else {}
        with self._http.stream("GET", path, headers=headers) as response:
            content = bounded(response, limit)
            if known is not None and response.status_code == NOT_MODIFIED:
                content = known
            else:
                self._http.require_success(response, content)
            signature = response.headers.get(HEADER, "")
        if self._pinned:
            # An unchanged document is verified too: it may have been kept before this host trusted any server.
            require_signed(self._pinned, kind, content, signature)
        return content


def parse_job(text: str) -> str:
    """Return `text` as a job's name; raises UsageError if it is none."""
    if not _JOB.fullmatch(text):
        raise UsageError(
            "build-name", f"{text[:40]!r} is not the name of a job.", advice="A job's name has 16 hex digits."
        )
    return text


def _repr_digest(headers: Mapping[str, str]) -> str:
    found = re.search(r"sha-256=:([A-Za-z0-9+/=]+):", headers["repr-digest"])
    if found is None:
        message = "no digest"
        raise ValueError(message)
    return base64.b64decode(found[1], validate=True).hex()


def _kernel(data: dict[str, Any]) -> KernelIdentity:
    return KernelIdentity(
        release=parse_release(data["release"]),
        build_id=BuildId(str(data["build_id"])),
        arch=str(data["arch"]),
        config_digest=Digest(str(data["config_digest"])),
        compiler=str(data["compiler"]),
    )


def _with_content(patch: SourcePatch) -> dict[str, str]:
    return {"name": patch.name, "content": base64.b64encode(patch.content).decode("ascii")}


def _encoded_bytes(patch: SourcePatch) -> int:
    return (len(patch.content) + 2) // 3 * 4


def _progress(name: str, data: str) -> Event | None:
    if name != "progress":
        return None
    event = json.loads(data)
    fraction = event["fraction"]
    return Event(
        stage=str(event["stage"]),
        message=str(event["message"]),
        fraction=float(fraction) if fraction is not None else None,
    )
