# SPDX-License-Identifier: GPL-2.0-or-later
"""Ed25519 keys: the server's private key, made at its first start, and the public keys that a host trusts."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from elivepatch.files.atomic import create_atomic
from elivepatch.files.digest import sha256
from elivepatch.model.errors import TrustError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
_MAX_FILE_BYTES = 16 * 1024


def parse_fingerprint(text: str) -> str:
    """Return a fingerprint as 64 lower-case hexadecimal digits; colons, spaces and `SHA256:` are dropped.

    Raises TrustError if `text` is not a fingerprint.
    """
    plain = re.sub(r"[\s:]", "", text.strip().lower().removeprefix("sha256:"))
    if not re.fullmatch(r"[0-9a-f]{64}", plain, re.ASCII):
        raise TrustError(
            "fingerprint",
            f"{text[:80]!r} is not a fingerprint.",
            advice="Give the 64 hexadecimal digits that the server prints at its start.",
        )
    return plain


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key, 32 bytes as RFC 8032 writes them."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise TrustError(
                "key-malformed",
                f"A public key has {KEY_BYTES} bytes, not {len(self.raw)}.",
                advice="Enrol the host again with `elivepatch enroll URL`.",
            )

    @classmethod
    def from_hex(cls, text: str) -> PublicKey:
        """Read 64 hexadecimal digits; raises TrustError for anything else."""
        if not re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII):
            raise TrustError(
                "key-malformed",
                "A public key is 64 hexadecimal digits.",
                advice="Enrol the host again with `elivepatch enroll URL`.",
            )
        return cls(bytes.fromhex(text))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the 32 bytes, 64 lower-case hexadecimal digits."""
        return sha256(self.raw)

    @property
    def shown(self) -> str:
        """The fingerprint in groups of four digits, for people to compare."""
        digits = self.fingerprint
        return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))

    def as_dict(self) -> dict[str, str]:
        """Return the answer to GET /v1/key."""
        return {"algorithm": "ed25519", "public_key": self.raw.hex(), "fingerprint": self.fingerprint}

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether this key's private half made `signature` over exactly `message`."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class ServerKey:
    """The private key with which a server signs livepatches and documents."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """The half that is given to hosts."""
        return PublicKey(self.private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature over `message` (RFC 8032)."""
        return self.private.sign(message)

    @classmethod
    def load_or_create(cls, path: Path) -> ServerKey:
        """Return the key in `path` (PKCS#8, PEM, mode 0600); create it first if the file is missing.

        Two processes that start at once get the same key: one of them creates the file, both read it. Raises
        TrustError if the file is not a key, or if other users than its owner can read it.
        """
        if not path.exists():
            _create(path)
        return cls(_read(path))


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    create_atomic(path, pem, mode=0o600)  # if another process was first, its key is the server's


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise TrustError(
                    "key-exposed",
                    f"{path} can be read by others than its owner.",
                    advice=f"If nobody had access, `chmod 600 {path}`; otherwise make a new key and enrol each host.",
                )
            key = load_pem_private_key(file.read(_MAX_FILE_BYTES), password=None)
    except OSError as error:
        raise TrustError(
            "key-unreadable",
            f"{path} cannot be read: {error.strerror}.",
            advice="Run the server as the owner of its state directory.",
        ) from error
    except (ValueError, TypeError) as error:
        raise _not_a_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_a_key(path)
    return key


def _not_a_key(path: Path) -> TrustError:
    return TrustError(
        "key-malformed",
        f"{path} does not hold an Ed25519 private key.",
        advice="Restore it from a backup; a new key means that every host must be enrolled again.",
    )
