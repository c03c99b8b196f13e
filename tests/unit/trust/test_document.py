# SPDX-License-Identifier: GPL-2.0-or-later
"""A signed document is believed from a pinned key, for exactly its bytes and its type."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from elivepatch.model.errors import TrustError
from elivepatch.trust.document import RECORDS, SOURCES, require_signed, sign_document
from elivepatch.trust.keys import PublicKey, ServerKey

KEY = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
CONTENT = b'{"release": "6.1.0-50-cloud-amd64"}'
SIGNED = sign_document(KEY, SOURCES, CONTENT)


def test_a_document_of_a_pinned_key_is_believed() -> None:
    require_signed([OTHER.public, KEY.public], SOURCES, CONTENT, SIGNED)


def test_the_signed_bytes_are_those_of_dsse() -> None:
    message = b"DSSEv1 %d %s %d %s" % (len(SOURCES), SOURCES.encode(), len(CONTENT), CONTENT)
    assert KEY.public.verifies(KEY.sign(message), message)
    assert sign_document(KEY, SOURCES, CONTENT).startswith("ed25519=")


@pytest.mark.parametrize(
    ("pinned", "kind", "content", "signature"),
    [
        pytest.param([OTHER.public], SOURCES, CONTENT, SIGNED, id="of another key"),
        pytest.param([KEY.public], RECORDS, CONTENT, SIGNED, id="of another type"),
        pytest.param([KEY.public], SOURCES, CONTENT + b" ", SIGNED, id="with other bytes"),
        pytest.param([KEY.public], SOURCES, CONTENT, "", id="unsigned"),
        pytest.param([KEY.public], SOURCES, CONTENT, SIGNED[:-4], id="cut"),
        pytest.param([KEY.public], SOURCES, CONTENT, f" {SIGNED}", id="written otherwise"),
        pytest.param([KEY.public], SOURCES, CONTENT, f"ed25519={'A' * 86}==", id="made up"),
        pytest.param([], SOURCES, CONTENT, SIGNED, id="no key is pinned"),
    ],
)
def test_any_other_is_refused(pinned: list[PublicKey], kind: str, content: bytes, signature: str) -> None:
    with pytest.raises(TrustError) as caught:
        require_signed(pinned, kind, content, signature)
    assert caught.value.problem.code == "document-signature"
