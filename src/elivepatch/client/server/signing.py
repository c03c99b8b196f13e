# SPDX-License-Identifier: GPL-2.0-or-later
"""What a server signs: its public key, and the envelope that belongs to each livepatch."""

from __future__ import annotations

from elivepatch.client.server.api import Api, parse_job
from elivepatch.client.server.errors import Refused
from elivepatch.model.errors import TrustError
from elivepatch.trust.envelope import MAX_BYTES
from elivepatch.trust.keys import PublicKey


class SigningServer(Api):
    """A server whose livepatches come with signed statements."""

    def public_key(self) -> PublicKey:
        """Return the key with which the server says it signs; it proves nothing before a person compared it.

        Raises TrustError where the server has none.
        """
        try:
            with self._understood():
                text = str(self._json("GET", "/v1/key")["public_key"])
        except Refused as refusal:
            raise TrustError(
                "unsigned",
                f"The server at {self.url} has no key to sign with: {refusal.problem.message}",
                advice="A host loads only what is signed: bring the server up to date, then enrol again.",
            ) from refusal
        return PublicKey.from_hex(text)

    def envelope(self, job: str) -> bytes:
        """Return the signed statement about a job's livepatch, unverified; raises TrustError where there is none."""
        path = f"/v1/builds/{parse_job(job)}/signature"
        try:
            with self._understood(), self._client.stream("GET", path) as got:
                content = self._bounded(got, MAX_BYTES)
                self._refuse(got, content)
        except Refused as refusal:
            raise TrustError(
                "unsigned",
                f"The server at {self.url} hands out no signature for this livepatch: {refusal.problem.message}",
                advice="A host loads only what is signed: bring the server up to date, then apply again.",
            ) from refusal
        return content
