# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may ask: bearer tokens, of which the database keeps the digest only.

A token is 256 random bits, so a plain SHA-256 cannot be turned back and needs no salt.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.database import tokens

_OPERATOR = "operator"
_MAX_TOKEN_LENGTH = 200


class Tokens:
    """The tokens of one database."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def ensure_operator(self, file: Path) -> bool:
        """Make the operator's token where the database has none, write it to `file` (mode 0600), say whether it did.

        The file is written first: a token that nobody can read any more would lock everyone out.
        """
        with self._database.connect() as connection:
            if connection.execute(sa.select(tokens.c.digest).where(tokens.c.name == _OPERATOR)).first() is not None:
                return False
        token = f"elp_{secrets.token_urlsafe(32)}"
        _write_private(file, token + "\n")
        with self._database.begin() as connection:
            connection.execute(
                sa.insert(tokens).values(digest=_digest(token), name=_OPERATOR, created_at=datetime.now(UTC))
            )
        return True

    def check(self, token: str) -> None:
        """Return where the token is one of ours, else raise EnvironmentFault with the code `token-refused`."""
        presented = _digest(token[:_MAX_TOKEN_LENGTH])
        with self._database.connect() as connection:
            known = connection.execute(sa.select(tokens.c.digest)).scalars().all()
        # All are compared, each in constant time, so that the time taken says nothing about a digest.
        matches = [hmac.compare_digest(presented, digest) for digest in known]
        if not any(matches):
            raise EnvironmentFault(
                "token-refused",
                "The server does not know this token.",
                advice="Take the token of the server's file operator.token, and check for cut-off characters.",
            )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", errors="surrogateescape")).hexdigest()


def _write_private(file: Path, text: str) -> None:
    staged = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    staged.replace(file)
