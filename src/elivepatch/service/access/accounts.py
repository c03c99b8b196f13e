# SPDX-License-Identifier: GPL-2.0-or-later
"""Accounts: bearer tokens, of which the database keeps only the digest, and the rights of their roles.

A token is 256 random bits, so a plain SHA-256 cannot be inverted and needs no salt. Nobody can choose the first digits
of a token's digest, so the time of a look-up by digest does not help a guesser.
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from elivepatch.files.atomic import publish, write_atomic
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.service.db.tables import DEFAULT_TENANT, tokens

_OPERATOR = "operator"
_MAX_TOKEN_LENGTH = 200
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}", re.ASCII)
_MAX_DAYS = 3650
_RECENT = 10_000
_RECENT_S = 1.0


class Role(enum.StrEnum):
    """Role of a token's owner."""

    HOST = "host"
    SUBMITTER = "submitter"
    PATCHER = "patcher"
    APPROVER = "approver"
    OPERATOR = "operator"
    WORKER = "worker"


class Right(enum.Enum):
    """Right that a request needs. `RIGHTS` and the table in docs/accounts.md list the roles that have it."""

    CATALOGUE = enum.auto()  # kernels, their sources, CVE records, the signing key, the API's description
    FOLLOW = enum.auto()  # jobs of the own tenant: their state, events and results
    ASK = enum.auto()  # uploads; builds of patches in the server's overlays
    ANY_PATCH = enum.auto()  # builds of any patch
    UNTRIED = enum.auto()  # livepatches without a trial; their proof says so
    PUSH = enum.auto()  # the files of a kernel: code for every host that runs it is made from them
    CANCEL = enum.auto()
    REPORT = enum.auto()  # what is open and live on a host
    HOSTS = enum.auto()  # reports of the own tenant's hosts
    FRESH = enum.auto()  # another build, although a job answers the request
    EVERY_TENANT = enum.auto()
    REMOVE_HOSTS = enum.auto()
    TOKENS = enum.auto()
    AUDIT = enum.auto()
    METRICS = enum.auto()


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.HOST: frozenset({Right.CATALOGUE, Right.FOLLOW, Right.REPORT}),
    Role.SUBMITTER: frozenset({Right.CATALOGUE, Right.FOLLOW, Right.REPORT, Right.ASK, Right.CANCEL}),
    Role.PATCHER: frozenset({Right.CATALOGUE, Right.FOLLOW, Right.REPORT, Right.ASK, Right.ANY_PATCH, Right.CANCEL}),
    Role.APPROVER: frozenset({Right.CATALOGUE, Right.FOLLOW, Right.HOSTS}),
    Role.OPERATOR: frozenset(Right),
    Role.WORKER: frozenset({Right.CATALOGUE, Right.METRICS}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The owner of a token. With `kernel` it sees the jobs for that release only."""

    name: str
    role: Role
    tenant: str
    kernel: str = ""

    def may(self, right: Right) -> bool:
        """Return True if the role has the right."""
        return right in RIGHTS[self.role]

    def sees(self, *, tenant: str, release: str) -> bool:
        """Return True if the account may see a job of this tenant for this kernel."""
        return (self.may(Right.EVERY_TENANT) or tenant == self.tenant) and self.kernel in {"", release}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token's row in the database; the token itself is shown once, when it is made."""

    name: str
    role: Role
    tenant: str
    kernel: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def is_valid(self) -> bool:
        """True if the server accepts the token now."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > datetime.now(UTC))


class Tokens:
    """Tokens of one database."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        self._recent: dict[str, tuple[Account, float]] = {}

    def recall(self, token: str) -> Account | None:
        """Return the account of a token that was checked within the last second, without the database; else None."""
        account, until = self._recent.get(_digest(token[:_MAX_TOKEN_LENGTH]), (None, 0.0))
        return account if time.monotonic() < until else None

    def ensure_operator(self, file: Path) -> bool:
        """Make the operator's token if the database has none, and write it to `file` (mode 0600); return True if so.

        The token is on the disk before the database knows it, and gets the name `file` after that: a crash locks
        nobody out, and of two servers that start at once on a new database, the one that is late writes no token.
        """
        staged = file.with_name(f"{file.name}.new")
        digest = self._operator_digest()
        if digest is None:
            token = _new()
            write_atomic(staged, f"{token}\n".encode("ascii"), mode=0o600)
            try:
                self._insert(token, Account(name=_OPERATOR, role=Role.OPERATOR, tenant=DEFAULT_TENANT), None)
            except sa.exc.IntegrityError:
                staged.unlink()
                return False
            digest = _digest(token)
        return _finish(staged, file, digest)

    def _operator_digest(self) -> str | None:
        with self._database.connect() as connection:
            digest: str | None = connection.execute(
                sa.select(tokens.c.digest).where(tokens.c.name == _OPERATOR)
            ).scalar()
            return digest

    def add(self, account: Account, *, days: int | None = None) -> str:
        """Make a token and return it; nobody can read it later.

        Raises UsageError if the name or the tenant is malformed, or the name is taken.
        """
        for what, text in (("name", account.name), ("tenant", account.tenant)):
            if not _NAME.fullmatch(text):
                raise UsageError(
                    "token-name",
                    f"{text[:80]!r} cannot be the {what} of a token.",
                    advice="1 to 40 lower-case letters, digits, dots, dashes and underscores.",
                )
        if days is not None and not 0 < days <= _MAX_DAYS:
            raise UsageError("token-days", "A token is valid for 1 to 3650 days.", advice="Give another number.")
        token = _new()
        try:
            self._insert(token, account, days)
        except sa.exc.IntegrityError as error:
            raise UsageError(
                "token-exists",
                f"A token with the name {account.name} exists or existed.",
                advice="Choose another name: a name is never used again, so that the audit log stays clear.",
            ) from error
        return token

    def list(self) -> Sequence[Token]:
        """Return all tokens by name, including revoked and expired ones."""
        with self._database.connect() as connection:
            rows = connection.execute(sa.select(tokens).order_by(tokens.c.name)).mappings().all()
        return [_read(row) for row in rows]

    def revoke(self, name: str) -> Token:
        """Revoke a token; doing it twice is the same as once. Raises UsageError if there is no such token."""
        self._recent = {}
        with self._database.begin() as connection:
            known = tokens.c.name == name[:_MAX_TOKEN_LENGTH]
            now = sa.func.coalesce(
                tokens.c.revoked_at, sa.bindparam("now", datetime.now(UTC), tokens.c.revoked_at.type)
            )
            row = (
                connection.execute(sa.update(tokens).where(known).values(revoked_at=now).returning(*tokens.c))
                .mappings()
                .one_or_none()
            )
        if row is None:
            raise UsageError(
                "token-unknown",
                "There is no token with this name.",
                advice="`elivepatch-server token list` lists them.",
            )
        return _read(row)

    def check(self, token: str) -> Account:
        """Return the account of a token; raises EnvironmentFault with the code `token-refused` if it is not valid."""
        with self._database.connect() as connection:
            row = (
                connection.execute(sa.select(tokens).where(tokens.c.digest == _digest(token[:_MAX_TOKEN_LENGTH])))
                .mappings()
                .one_or_none()
            )
        known = None if row is None else _read(row)
        if known is None or not known.is_valid:
            # The message does not say which: a person who finds a revoked token need not learn that it was one.
            raise EnvironmentFault(
                "token-refused",
                "The server does not know this token.",
                advice="Take the token of the server's file operator.token, or ask its operator; tokens expire.",
            )
        account = Account(name=known.name, role=known.role, tenant=known.tenant, kernel=known.kernel)
        if len(self._recent) >= _RECENT:
            self._recent = {}
        self._recent[_digest(token[:_MAX_TOKEN_LENGTH])] = (account, time.monotonic() + _RECENT_S)
        return account

    def _insert(self, token: str, account: Account, days: int | None) -> None:
        now = datetime.now(UTC)
        with self._database.begin() as connection:
            connection.execute(
                sa.insert(tokens).values(
                    digest=_digest(token),
                    name=account.name,
                    role=account.role.value,
                    tenant=account.tenant,
                    kernel=account.kernel,
                    created_at=now,
                    expires_at=None if days is None else now + timedelta(days=days),
                )
            )


def _read(row: sa.RowMapping) -> Token:
    return Token(role=Role(row["role"]), **{key: row[key] for key in row if key not in {"digest", "role"}})


def _new() -> str:
    return f"elp_{secrets.token_urlsafe(32)}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", errors="surrogateescape")).hexdigest()


def _finish(staged: Path, file: Path, digest: str) -> bool:
    """Give the token in `staged` its name if the database knows it by `digest`; remove any other."""
    if not staged.exists():
        return False
    if _digest(staged.read_text(encoding="ascii", errors="replace").strip()) != digest:
        staged.unlink()
        return False
    publish(staged, file)
    return True
