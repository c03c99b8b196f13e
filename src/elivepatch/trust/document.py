# SPDX-License-Identifier: GPL-2.0-or-later
"""Signed documents: data that a server delivers beside livepatches, with a detached signature.

The key signs DSSE's pre-authentication encoding of the document's type and bytes (dsse.py), so that a signed document
of one type is never accepted as one of another.
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
"""HTTP response header with the signature of the body."""

SOURCES = "application/vnd.elivepatch.kernel-sources.v1+json"
RECORDS = "application/vnd.elivepatch.cve-records.v1"

_VALUE = re.compile(r"ed25519=([A-Za-z0-9+/]{86}==)")


def sign_document(key: ServerKey, kind: str, content: bytes) -> str:
    """Return the signature of a document of type `kind`, in the form of the header."""
    return f"ed25519={base64.b64encode(key.sign(pre_authentication(kind, content))).decode('ascii')}"


def require_signed(pinned: Collection[PublicKey], kind: str, content: bytes, signature: str) -> None:
    """Raise TrustError if none of the `pinned` keys signed exactly this document."""
    found = _VALUE.fullmatch(signature)
    try:
        raw = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        raw = b""
    if not any(key.verifies(raw, pre_authentication(kind, content)) for key in pinned):
        raise TrustError(
            "document-signature",
            "The server's answer is not signed by a server that this host trusts.",
            advice="If the server's key was changed on purpose, run `elivepatch enroll URL` again.",
        )
