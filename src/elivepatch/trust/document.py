# SPDX-License-Identifier: GPL-2.0-or-later
"""Signed documents: what a server knows and hands out beside livepatches, with a detached signature.

The signature is made over DSSE's pre-authentication encoding of the document's type and its bytes (secure-systems-lab,
`protocol.md`), so that a signed document of one type is never taken for one of another.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection

from elivepatch.model.errors import TrustError
from elivepatch.trust.dsse import pre_authentication
from elivepatch.trust.keys import PublicKey, ServerKey

HEADER = "Elivepatch-Signature"
"""The header of an answer that carries the signature of its body."""

SOURCES = "application/vnd.elivepatch.kernel-sources.v1+json"
RECORDS = "application/vnd.elivepatch.cve-records.v1"

_VALUE = re.compile(r"ed25519=([A-Za-z0-9+/]{86}==)")


def sign_document(key: ServerKey, kind: str, content: bytes) -> str:
    """Return the signature of a document of this type, as the header carries it."""
    return f"ed25519={base64.b64encode(key.sign(pre_authentication(kind, content))).decode('ascii')}"


def require_signed(pinned: Collection[PublicKey], kind: str, content: bytes, signature: str) -> None:
    """Raise TrustError where none of the `pinned` keys signed exactly this document."""
    found = _VALUE.fullmatch(signature)
    try:
        raw = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        raw = b""
    if not any(key.verifies(raw, pre_authentication(kind, content)) for key in pinned):
        raise TrustError(
            "document-signature",
            "What the server told is not signed by a server that this host trusts.",
            advice="If the server's key was changed on purpose, run `elivepatch enroll URL` again.",
        )
