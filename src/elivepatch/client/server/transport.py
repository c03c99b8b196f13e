# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP connection to one server: sizes are bounded, and every failure becomes one of this program's errors."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from elivepatch.client.server.errors import Refused, Unreachable
from elivepatch.files.secret import require_private
from elivepatch.model.errors import EnvironmentFault, Problem, UsageError
from elivepatch.settings import ClientSettings

MAX_ANSWER_BYTES = 32 * 1024 * 1024
NOT_MODIFIED = 304

# Exceptions of code that reads an answer of another shape than the API has.
_MALFORMED = (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, UsageError)
_HOST = re.compile(rb"[A-Za-z0-9._:-]+")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def is_loopback(url: str) -> bool:
    """Return whether `url` names this machine."""
    return _parsed(url).host in _LOOPBACK


class Transport:
    """One server's HTTP. Methods raise Unreachable, Refused, or EnvironmentFault for a malformed answer."""

    def __init__(self, settings: ClientSettings, *, transport: httpx2.BaseTransport | None = None) -> None:
        if not re.fullmatch(r"[\x21-\x7e]*", settings.token):
            raise UsageError("token", "The token has characters that no token has.", advice="Copy the token again.")
        self.url = settings.url.rstrip("/")
        self.timeout_s = settings.timeout_s
        self._client = httpx2.Client(
            base_url=_parsed(self.url),
            headers={"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {settings.token}"} if settings.token else {}),
            timeout=settings.timeout_s,
            # A proxy that the environment names cannot reach the addresses of this machine's loopback.
            trust_env=not is_loopback(self.url),
            verify=_tls(settings) if _parsed(self.url).scheme == "https" else True,
            transport=transport,
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def send_json(self, method: str, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Send a JSON document and return the JSON object of the answer."""
        content = json.dumps(document).encode()
        return self.json(method, path, content=content, headers={"Content-Type": "application/json"})

    def json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Return the JSON object of an answer."""
        with self.translated_errors():
            answer = json.loads(self.answer(method, path, **request))
            if not isinstance(answer, dict):
                raise TypeError(type(answer))
            return answer

    def answer(self, method: str, path: str, *, limit: int = MAX_ANSWER_BYTES, **request: Any) -> bytes:
        """Return the body of an answer of at most `limit` bytes."""
        with self.stream(method, path, **request) as response:
            return self.body(response, limit)

    @contextmanager
    def stream(self, method: str, path: str, **request: Any) -> Iterator[httpx2.Response]:
        """Yield an answer whose body is not read yet."""
        with self.translated_errors(), self._client.stream(method, path, **request) as response:
            yield response

    def body(self, response: httpx2.Response, limit: int) -> bytes:
        """Return the body of a successful answer; raises for every other status."""
        content = bounded(response, limit)
        self.require_success(response, content)
        return content

    def require_success(self, response: httpx2.Response, content: bytes) -> None:
        """Return for a success; raise Refused or Unreachable for any other status."""
        if response.is_success:
            return
        if response.headers.get("content-type", "").startswith("application/problem+json"):
            problem = Problem.from_dict(json.loads(content))
            if problem.code != "server-stopping":
                raise Refused(problem)
        elif response.status_code not in {502, 503, 504}:
            message = f"status {response.status_code}"
            raise ValueError(message)
        raise self.unreachable(f"status {response.status_code}")

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Turn exceptions of the network, and of code that reads a malformed answer, into this program's errors."""
        try:
            yield
        except httpx2.UnsupportedProtocol as error:
            raise _bad_url(self.url) from error
        except httpx2.SSEError as error:
            raise self._malformed_answer() from error
        except httpx2.TransportError as error:
            raise self.unreachable(_reason(error)) from error
        except (*_MALFORMED, httpx2.HTTPError) as error:
            raise self._malformed_answer() from error

    def unreachable(self, reason: str) -> Unreachable:
        """Return the error of a server that does not answer, with advice for the reason."""
        advice = "Start it with `elivepatch-server serve`, or name another one with --url or in client.toml."
        if "SSL" in reason:
            advice = (
                "Write http:// if the server speaks no TLS; the setting server_ca names its certificate's authority."
            )
        elif "disconnected" in reason:
            advice = "Write https:// if the server speaks TLS."
        return Unreachable("server-unreachable", f"The server at {self.url} does not answer: {reason}.", advice=advice)

    def _malformed_answer(self) -> EnvironmentFault:
        return EnvironmentFault(
            "server-answer",
            f"The answer from {self.url} is not one of an elivepatch server.",
            advice="Check the URL, the version of the server, and proxies in between.",
        )


def bounded(response: httpx2.Response, limit: int) -> bytes:
    """Return the body of an answer; raises ValueError if it has more than `limit` bytes."""
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > limit:
            message = "an answer larger than any that is expected"
            raise ValueError(message)
    return bytes(content)


def _parsed(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise _bad_url(url) from error
    if parsed.scheme not in {"http", "https"} or not _HOST.fullmatch(parsed.raw_host):
        raise _bad_url(url)
    return parsed


def _tls(settings: ClientSettings) -> ssl.SSLContext:
    """Return the TLS context: the system's authorities, or `server_ca` alone, and the client's certificate."""
    try:
        context = ssl.create_default_context(cafile=settings.server_ca or None)
        if settings.client_certificate:
            context.load_cert_chain(settings.client_certificate, settings.client_key or None)
            require_private(Path(settings.client_key or settings.client_certificate), "the client's private key")
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
