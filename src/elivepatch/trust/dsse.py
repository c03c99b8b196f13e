# SPDX-License-Identifier: GPL-2.0-or-later
"""Pre-authentication encoding of DSSE v1 (secure-systems-lab, `protocol.md`): the bytes that a key signs."""

from __future__ import annotations


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return `DSSEv1 LEN(type) type LEN(payload) payload`, lengths in bytes, decimal.

    The type is part of what is signed, so nobody can pass a signed payload of one type off as one of another.
    """
    kind = payload_type.encode("ascii")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
