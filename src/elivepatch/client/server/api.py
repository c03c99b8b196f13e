# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's API, version 1, as the client uses it (docs/api.md).

What a server answers is not believed: shapes are checked, sizes are bounded, files are compared with their digests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from elivepatch.client.server.errors import Refused, Unreachable
from elivepatch.client.server.report import Report, read_report
from elivepatch.client.server.uploads import large, upload
from elivepatch.model.build import Builder, BuildRequest, Status
from elivepatch.model.errors import EnvironmentFault, Problem, TrustError, UsageError
from elivepatch.model.kernel import BuildId, Digest, KernelIdentity, parse_release
from elivepatch.model.progress import Event
from elivepatch.model.series import BasePatch, SourcePatch
from elivepatch.settings import ClientSettings

MAX_SERIES_BYTES = 24 * 1024 * 1024
"""What the patches of one request may have, as the server has it (docs/api.md)."""

_MAX_ANSWER_BYTES = 32 * 1024 * 1024
_MAX_FILE_BYTES = 256 * 1024 * 1024
# The server sends a comment every 10 s where nothing happens: silence beyond that is a lost connection.
_EVENT_SILENCE_S = 45.0
_JOB = re.compile(r"[0-9a-f]{16}", re.ASCII)
# What reading an answer of another shape than expected raises.
_NONSENSE = (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, UsageError)
_HOST = re.compile(rb"[A-Za-z0-9._:-]+")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """Something that happened to a job. `progress` is None for what is not for people."""

    id: int
    progress: Event | None


def is_loopback(url: str) -> bool:
    """Return whether `url` names this machine."""
    return _parsed(url).host in _LOOPBACK


class Api:
    """One server. Every method raises Unreachable, Refused, or EnvironmentFault for an answer that makes no sense."""

    def __init__(self, settings: ClientSettings, *, transport: httpx2.BaseTransport | None = None) -> None:
        if not re.fullmatch(r"[\x21-\x7e]*", settings.token):
            raise UsageError("token", "The token has characters that no token has.", advice="Copy the token again.")
        self.url = settings.url.rstrip("/")
        self.limit_s = settings.limit_s
        self._timeout_s = settings.timeout_s
        self._client = httpx2.Client(
            base_url=_parsed(self.url),
            headers={"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {settings.token}"} if settings.token else {}),
            timeout=settings.timeout_s,
            # A proxy of the environment cannot know this machine's own addresses.
            trust_env=not is_loopback(self.url),
            verify=_tls(settings) if _parsed(self.url).scheme == "https" else True,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def kernels(self) -> list[KernelIdentity]:
        """Return the kernels that the server can build for."""
        with self._understood():
            return [_kernel(kernel) for kernel in self._json("GET", "/v1/kernels")["kernels"]]

    def submit(self, request: BuildRequest, *, fresh: bool = False, automatic: bool = False) -> str:
        """Ask for a build and return the job's name. Asking again gives the same job while that is of use.

        Patches that would make the request larger than 1 MiB are uploaded before, so that a lost connection costs the
        rest of one patch. Raises UsageError where the series has more than 24 MiB.

        `fresh` asks for a build although there is an answer; with `automatic` it waits behind what people wait for.
        """
        patches = request.series.patches
        if sum(len(patch.content) for patch in patches) > MAX_SERIES_BYTES:
            raise UsageError(
                "request-too-large",
                "The patches are too large to send: 24 MiB is the limit of one series.",
                advice="Send only what the fix needs.",
            )
        uploaded = large(patches)
        names = {patch.digest for patch in uploaded}
        body = json.dumps(
            {
                "kernel": request.release,
                "patches": [_named(patch) if patch.digest in names else _whole(patch) for patch in patches],
                "expectations": [asdict(expectation) for expectation in request.expectations],
                "trial": request.trial,
                "check_only": request.check_only,
                "replace": request.replace,
            }
            | ({"builder": request.builder.value} if request.builder is not Builder.OBJECTS else {})
            | ({"paranoid": True} if request.paranoid else {})
            | ({"rewrite": True} if request.rewrite else {})
            | ({"base_patches": [_named(patch) for patch in request.base_patches]} if request.base_patches else {})
            | ({"fresh": True} if fresh else {})
            | ({"priority": "automatic"} if automatic else {})
        ).encode()
        for patch in uploaded:
            upload(self, patch)
        try:
            return self._submit(body)
        except Refused as error:
            if not uploaded or error.problem.code != "blob-unknown":
                raise
        # One that had been there for a day went in between, or was damaged.
        for patch in uploaded:
            upload(self, patch)
        return self._submit(body)

    def held(self, digest: Digest) -> int | None:
        """Return how many bytes of a blob the server has, None where it has the whole of it."""
        with self._understood(), self._client.stream("HEAD", f"/v1/blobs/{digest}") as got:
            if got.is_server_error:
                raise self._unreachable(f"status {got.status_code}")
            if not got.is_success:
                # Such an answer has no words; whoever sends the blob then is told in words.
                return 0
            return None if got.headers["upload-complete"] == "?1" else int(got.headers["upload-offset"])

    def send(self, digest: Digest, content: bytes, *, offset: int) -> None:
        """Send a blob from its byte `offset` to its end."""
        path = f"/v1/blobs/{digest}"
        headers = {"Upload-Complete": "?1", "Upload-Length": str(len(content))}
        with self._understood():
            if not offset:
                self._answer("PUT", path, content=content, headers=headers)
                return
            headers |= {"Upload-Offset": str(offset), "Content-Type": "application/partial-upload"}
            self._answer("PATCH", path, content=content[offset:], headers=headers)

    def is_done(self, job: str) -> bool:
        """Return whether the job has ended."""
        path = f"/v1/builds/{parse_job(job)}"
        with self._understood():
            return Status(self._json("GET", path)["status"]) is Status.DONE

    def cancel(self, job: str) -> bool:
        """Have the server end a job; return whether it is done, else it is ended within seconds."""
        path = f"/v1/builds/{parse_job(job)}"
        with self._understood():
            return Status(self._json("DELETE", path)["status"]) is Status.DONE

    def report(self, job: str) -> Report:
        """Return how a done job ended."""
        path = f"/v1/builds/{parse_job(job)}/report"
        with self._understood():
            return read_report(self._json("GET", path), job=job)

    def events(self, job: str, *, after: int) -> Iterator[ServerEvent]:
        """Yield what happens to a job from after the event `after` (0: from its beginning), until it is done."""
        path = f"/v1/builds/{parse_job(job)}/events"
        timeout = httpx2.Timeout(self._timeout_s, read=_EVENT_SILENCE_S)
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        with (
            self._understood(),
            self._client.stream("GET", path, headers=headers, timeout=timeout) as got,
        ):
            if got.status_code != httpx2.codes.OK:
                self._refuse(got, self._bounded(got, _MAX_ANSWER_BYTES))
            for event in httpx2.EventSource(got):
                if event.id:
                    yield ServerEvent(id=int(event.id), progress=_event(event.event, event.data))

    def download(self, job: str, what: Literal["module", "log", "console"], digest: Digest | None = None) -> bytes:
        """Return one of a job's files; raises TrustError where its bytes are not those of its digest.

        The digest is that of the report where one is given, else that of the answer's Repr-Digest (RFC 9530).
        """
        path = f"/v1/builds/{parse_job(job)}/{what}"
        with self._understood(), self._client.stream("GET", path) as got:
            content = self._bounded(got, _MAX_FILE_BYTES)
            self._refuse(got, content)
            expected = digest or _repr_digest(got.headers)
        if hashlib.sha256(content).hexdigest() != expected:
            raise TrustError(
                "download-digest",
                f"What arrived as the job's {what} is not what the server has.",
                advice="Follow the job again to fetch it anew; if this repeats, look for what sits in between.",
            )
        return content

    def _submit(self, body: bytes) -> str:
        with self._understood():
            answer = self._json("POST", "/v1/builds", content=body, headers={"Content-Type": "application/json"})
            return parse_job(answer["id"])

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = json.loads(self._answer(method, path, **request))
        if not isinstance(answer, dict):
            raise TypeError(type(answer))
        return answer

    def _answer(self, method: str, path: str, **request: Any) -> bytes:
        with self._client.stream(method, path, **request) as got:
            content = self._bounded(got, _MAX_ANSWER_BYTES)
            self._refuse(got, content)
        return content

    @staticmethod
    def _bounded(got: httpx2.Response, limit: int) -> bytes:
        content = bytearray()
        for chunk in got.iter_bytes():
            content += chunk
            if len(content) > limit:
                message = "an answer larger than any that is expected"
                raise ValueError(message)
        return bytes(content)

    def _refuse(self, got: httpx2.Response, content: bytes) -> None:
        """Return for a success, raise for any other status."""
        if got.is_success:
            return
        if got.headers.get("content-type", "").startswith("application/problem+json"):
            problem = Problem.from_dict(json.loads(content))
            if problem.code != "server-stopping":
                raise Refused(problem)
        elif got.status_code not in {502, 503, 504}:
            message = f"status {got.status_code}"
            raise ValueError(message)
        raise self._unreachable(f"status {got.status_code}")

    def _unreachable(self, how: str) -> Unreachable:
        advice = "Start it with `elivepatch-server serve`, or name another one with --url or in client.toml."
        if "SSL" in how:
            advice = "Write http:// where it speaks no TLS; the setting server_ca names its certificate's authority."
        elif "disconnected" in how:
            advice = "Write https:// where it speaks TLS."
        return Unreachable("server-unreachable", f"The server at {self.url} does not answer: {how}.", advice=advice)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Turn what the network and garbage raise into our words."""
        try:
            yield
        except httpx2.UnsupportedProtocol as error:
            raise _bad_url(self.url) from error
        except httpx2.SSEError as error:
            raise self._garbage() from error
        except httpx2.TransportError as error:
            raise self._unreachable(_reason(error)) from error
        except (*_NONSENSE, httpx2.HTTPError) as error:
            raise self._garbage() from error

    def _garbage(self) -> EnvironmentFault:
        return EnvironmentFault(
            "server-answer",
            f"What answers at {self.url} does not speak this program's language.",
            advice="Check the URL, the version of the server, and proxies in between.",
        )


def _parsed(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise _bad_url(url) from error
    if parsed.scheme not in {"http", "https"} or not _HOST.fullmatch(parsed.raw_host):
        raise _bad_url(url)
    return parsed


def _tls(settings: ClientSettings) -> ssl.SSLContext:
    """Return what is trusted and shown in TLS: what the system trusts, or `server_ca` alone."""
    try:
        context = ssl.create_default_context(cafile=settings.server_ca or None)
        if settings.client_certificate:
            context.load_cert_chain(settings.client_certificate, settings.client_key or None)
    except OSError as error:
        raise UsageError(
            "tls-files",
            f"The authority, certificate or key for TLS cannot be used: {error}.",
            advice="Give PEM files that belong together: server_ca, client_certificate, client_key.",
        ) from error
    return context


def _bad_url(url: str) -> UsageError:
    return UsageError("url", f"{url[:120]!r} is not a server.", advice="Give a URL such as http://127.0.0.1:8440.")


def _reason(error: httpx2.TransportError) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "it takes too long"
    return str(error).rstrip(".")[:200] or type(error).__name__


def parse_job(text: str) -> str:
    """Return `text` as a job's name, or raise UsageError where it cannot be one."""
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


def _named(patch: SourcePatch | BasePatch) -> dict[str, str]:
    return {"name": patch.name, "sha256": patch.digest}


def _whole(patch: SourcePatch) -> dict[str, str]:
    return {"name": patch.name, "content": base64.b64encode(patch.content).decode("ascii")}


def _event(name: str, data: str) -> Event | None:
    if name != "progress":
        return None
    told = json.loads(data)
    fraction = told["fraction"]
    return Event(
        stage=str(told["stage"]),
        message=str(told["message"]),
        fraction=float(fraction) if fraction is not None else None,
    )
