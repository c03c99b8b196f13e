# SPDX-License-Identifier: GPL-2.0-or-later
"""What a server knows about kernels and CVEs, as this client fetches it: only when it changed, and bounded."""

from __future__ import annotations

from elivepatch.advisory.sources import MAX_BYTES, KernelSources, etag
from elivepatch.client.handout import SigningServer
from elivepatch.model.errors import TrustError
from elivepatch.model.kernel import parse_release

_NOT_MODIFIED = 304


class AdvisoryServer(SigningServer):
    """A server that also says what its kernels were built from."""

    def sources(self, release: str, *, known: bytes | None) -> bytes:
        """Return the document about a kernel, `known` itself where that is still it.

        Raises TrustError where it is about another kernel than was asked for.
        """
        path = f"/v1/kernels/{parse_release(release)}/sources"
        headers = {"If-None-Match": etag(known)} if known is not None else {}
        with self._understood(), self._client.stream("GET", path, headers=headers) as got:
            content = self._bounded(got, MAX_BYTES)
            if known is not None and got.status_code == _NOT_MODIFIED:
                return known
            self._refuse(got, content)
            told = KernelSources.decode(content)
        if told.release != release:
            raise TrustError(
                "other-kernel",
                f"The server at {self.url} was asked about {release[:80]} and told about {told.release}.",
                advice="Ask whoever runs the server.",
            )
        return content
