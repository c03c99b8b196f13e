# SPDX-License-Identifier: GPL-2.0-or-later
"""Proofs: DSSE envelopes around in-toto statements, made by the server and verified by the host.

The format is DSSE v1 (secure-systems-lab, `protocol.md`): the key signs the pre-authentication encoding of the
statement (dsse.py), never the JSON around it. A proof is one line of JSON, and so a bundle of in-toto (JSON Lines) with
one attestation.
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

PAYLOAD_TYPE = "application/vnd.in-toto+json"
SUFFIX = ".intoto.jsonl"
"""The name of a proof is that of its module with this suffix, as in-toto's specification of bundles says."""

MAX_BYTES = 2 * statement.MAX_BYTES
_MAX_SIGNATURES = 16
_OLDER_TYPE = "application/vnd.elivepatch.livepatch.v1+json"


def sign_proof(key: ServerKey, about: Statement) -> bytes:
    """Return a proof with the statement `about`, signed by `key`; a statement that names another key is a mistake."""
    if about.builder != key.public.fingerprint:
        raise ValueError(about.builder)
    body = about.encode()
    signature = key.sign(pre_authentication(PAYLOAD_TYPE, body))
    envelope = canonical.encode(
        {
            "payload": base64.b64encode(body).decode("ascii"),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": key.public.fingerprint, "sig": base64.b64encode(signature).decode("ascii")},
            ],
        }
    )
    return envelope + b"\n"


def require_enrolled(pinned: Collection[PublicKey]) -> None:
    """Raise TrustError if no key is pinned: then no signature can be verified."""
    if not pinned:
        raise TrustError(
            "not-enrolled",
            "This host trusts no server yet.",
            advice="Run `elivepatch enroll URL` and compare the fingerprint with the one that the server prints.",
        )


def verify_envelope(envelope: bytes, pinned: Collection[PublicKey]) -> Statement:
    """Return the statement in a proof if one of the `pinned` keys signed it; raises TrustError otherwise.

    The module's bytes are not checked: use `verify_livepatch` before you trust a module.
    """
    require_enrolled(pinned)
    body, signatures = _parts(canonical.decode(envelope, limit=MAX_BYTES, what="proof"))
    message = pre_authentication(PAYLOAD_TYPE, body)
    # The signature does not cover the key id, which is there for people only: so every pinned key is tried.
    signers = {key.fingerprint for key in pinned for signature in signatures if key.verifies(signature, message)}
    if not signers:
        raise TrustError(
            "signature",
            "The livepatch is not signed by a server that this host trusts.",
            advice="Do not load it. If the server's key was changed on purpose, run `elivepatch enroll URL` again.",
        )
    signed = Statement.decode(body)
    if signed.builder not in signers:
        raise TrustError(
            "proof-builder",
            "The proof names another server than the one that signed it.",
            advice="Do not load the livepatch. Report it to the operator of the server that signed this.",
        )
    return signed


def verify_livepatch(envelope: bytes, module: bytes, pinned: Collection[PublicKey]) -> Statement:
    """Return the statement if a pinned key signed it for exactly these module bytes; raises TrustError otherwise."""
    signed = verify_envelope(envelope, pinned)
    if sha256(module) != signed.digest:
        raise TrustError(
            "module-digest",
            f"The proof is for another module: {signed.name} has {signed.size_bytes} bytes and the SHA-256 "
            f"{signed.digest[:12]}..., this one has {len(module)} bytes and {sha256(module)[:12]}....",
            advice="Fetch module and proof again. If they came together, the module was changed: find out who did it.",
        )
    if len(module) != signed.size_bytes:
        raise TrustError(
            "module-size",
            f"The module has {len(module)} bytes, but the signed statement gives {signed.size_bytes}.",
            advice="Do not load the livepatch. Report it to the operator of the server that signed this.",
        )
    return signed


def _parts(read: dict[str, Any]) -> tuple[bytes, list[bytes]]:
    signatures, kind = read.get("signatures"), read.get("payloadType")
    if kind == _OLDER_TYPE:
        raise TrustError(
            "proof-type",
            "This is a signature of an older elivepatch, which says nothing of how the livepatch was made.",
            advice="Have the server build the livepatch again, and take the proof that comes with it.",
        )
    if kind != PAYLOAD_TYPE or not isinstance(signatures, list):
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
        "proof-malformed",
        "The proof is not a DSSE envelope around an in-toto statement.",
        advice=f"Give the file FILE.ko{SUFFIX} that came with the module.",
    )
