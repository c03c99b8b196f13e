# SPDX-License-Identifier: GPL-2.0-or-later
"""What a server knows about kernels and CVEs, as this client fetches it: only when it changed, bounded, and signed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import httpx2

from elivepatch.advisory.exposure.sources import MAX_BYTES, KernelSources, etag
from elivepatch.advisory.records.index import FILE_MAX
from elivepatch.client.server.errors import Refused
from elivepatch.client.server.signing import SigningServer
from elivepatch.model.errors import TrustError
from elivepatch.model.kernel import parse_release
from elivepatch.settings import ClientSettings
from elivepatch.trust.document import HEADER, RECORDS, SOURCES, require_signed
from elivepatch.trust.keys import PublicKey

_NOT_MODIFIED = 304


class AdvisoryServer(SigningServer):
    """A server that also says what its kernels were built from and hands out CVE records.

    `pinned` are the keys that this host trusts; where there are none, nobody checks who signed.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        pinned: Collection[PublicKey] = (),
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        super().__init__(settings, transport=transport)
        self._pinned = pinned

    def sources(self, release: str, *, known: bytes | None) -> bytes:
        """Return the document about a kernel, `known` itself where that is still it.

        Raises TrustError where it is not signed by a pinned key or is about another kernel than was asked for.
        """
        content = self._fetch(f"/v1/kernels/{parse_release(release)}/sources", SOURCES, known, MAX_BYTES)
        with self._understood():
            told = KernelSources.decode(content)
        if told.release != release:
            raise TrustError(
                "other-kernel",
                f"The server at {self.url} answers about {told.release} where {release} was asked for.",
                advice="Ask whoever runs the server.",
            )
        return content

    def records(self, *, known: bytes | None) -> bytes | None:
        """Return the index of CVE records, `known` itself where that is still it, None where the server keeps none.

        Raises TrustError where it is not signed by a pinned key.
        """
        try:
            return self._fetch("/v1/cve/records", RECORDS, known, FILE_MAX)
        except Refused as refusal:
            # A server older than this client has no such place at all.
            if refusal.problem.code in {"records-unknown", "not-found"}:
                return None
            raise

    def report_host(self, host: str, told: Mapping[str, Any]) -> None:
        """Tell how a run ended on `host` (docs/api.md)."""
        with self._understood():
            self._json(
                "PUT",
                f"/v1/hosts/{host}",
                content=json.dumps(told).encode(),
                headers={"Content-Type": "application/json"},
            )

    def _fetch(self, path: str, kind: str, known: bytes | None, limit: int) -> bytes:
        headers = {"If-None-Match": etag(known)} if known is not None else {}
        with self._understood(), self._client.stream("GET", path, headers=headers) as got:
            content = self._bounded(got, limit)
            if known is not None and got.status_code == _NOT_MODIFIED:
                content = known
            else:
                self._refuse(got, content)
            signature = got.headers.get(HEADER, "")
        if self._pinned:
            # What is still the same is checked too: it may have been kept before this host trusted any server.
            require_signed(self._pinned, kind, content, signature)
        return content
