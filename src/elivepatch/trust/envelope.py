# SPDX-License-Identifier: GPL-2.0-or-later
"""Signed statements: DSSE envelopes around canonical JSON, made by the server and verified by the host.

The format is DSSE v1 (secure-systems-lab, `protocol.md`): the key signs the pre-authentication encoding of the
statement (dsse.py), never the JSON around it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from typing import Any

from elivepatch.files.digest import sha256
from elivepatch.model.errors import TrustError
from elivepatch.trust import canonical, statement
from elivepatch.trust.dsse import pre_authentication
from elivepatch.trust.keys import PublicKey, ServerKey
from elivepatch.trust.statement import Statement

PAYLOAD_TYPE = "application/vnd.elivepatch.livepatch.v1+json"
MAX_BYTES = 2 * statement.MAX_BYTES
_MAX_SIGNATURES = 16


def sign_livepatch(key: ServerKey, about: Statement) -> bytes:
    """Return an envelope with the statement `about`, signed by `key`."""
    body = about.encode()
    signature = key.sign(pre_authentication(PAYLOAD_TYPE, body))
    return canonical.encode(
        {
            "payload": base64.b64encode(body).decode("ascii"),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": key.public.fingerprint, "sig": base64.b64encode(signature).decode("ascii")},
            ],
        }
    )


def require_enrolled(pinned: Collection[PublicKey]) -> None:
    """Raise TrustError if no key is pinned: then no signature can be verified."""
    if not pinned:
        raise TrustError(
            "not-enrolled",
            "This host trusts no server yet.",
            advice="Run `elivepatch enroll URL` and compare the fingerprint with the one that the server prints.",
        )


def verify_envelope(envelope: bytes, pinned: Collection[PublicKey]) -> Statement:
    """Return the statement in `envelope` if one of the `pinned` keys signed it; raises TrustError otherwise.

    The module's bytes are not checked: use `verify_livepatch` before you trust a module.
    """
    require_enrolled(pinned)
    read = canonical.decode(envelope, limit=MAX_BYTES, what="signature file")
    body, signatures = _parts(read)
    message = pre_authentication(PAYLOAD_TYPE, body)
    # The signature does not cover the key id, which is there for people only: so every pinned key is tried.
    if not any(key.verifies(signature, message) for key in pinned for signature in signatures):
        raise TrustError(
            "signature",
            "The livepatch is not signed by a server that this host trusts.",
            advice="Do not load it. If the server's key was changed on purpose, run `elivepatch enroll URL` again.",
        )
    return Statement.decode(body)


def verify_livepatch(envelope: bytes, module: bytes, pinned: Collection[PublicKey]) -> Statement:
    """Return the statement if a pinned key signed it for exactly these module bytes; raises TrustError otherwise."""
    signed = verify_envelope(envelope, pinned)
    if len(module) != signed.size_bytes:
        raise TrustError(
            "module-size",
            f"The module has {len(module)} bytes, but the signed statement gives {signed.size_bytes}.",
            advice="The file was cut off or changed on its way: fetch it again.",
        )
    if sha256(module) != signed.digest:
        raise TrustError(
            "module-digest",
            "The module is not the one that was signed: its SHA-256 differs.",
            advice="The file was changed on its way: fetch it again, and find out who changed it.",
        )
    return signed


def _parts(read: dict[str, Any]) -> tuple[bytes, list[bytes]]:
    signatures = read.get("signatures")
    if read.get("payloadType") != PAYLOAD_TYPE or not isinstance(signatures, list):
        raise _malformed()
    if not 1 <= len(signatures) <= _MAX_SIGNATURES or not all(isinstance(item, dict) for item in signatures):
        raise _malformed()
    return _base64(read.get("payload")), [_base64(item.get("sig")) for item in signatures]


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise _malformed()
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed() from error


def _malformed() -> TrustError:
    return TrustError(
        "envelope-malformed",
        "The signature file is not a DSSE envelope of elivepatch.",
        advice="Give the .sig file that the server delivered with the module.",
    )
