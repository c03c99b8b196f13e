# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server token`: manage the tokens of clients and their rights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ExitStatus
from elivepatch.model.kernel import parse_release
from elivepatch.output import Output
from elivepatch.service.access.accounts import Account, Role, Token, Tokens
from elivepatch.service.access.audit import Audit
from elivepatch.service.commands.options import add_common, settings_of
from elivepatch.service.db.database import open_tables
from elivepatch.service.db.tables import DEFAULT_TENANT
from elivepatch.service.state_directory import make_state_directory

_HERE = "console"


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("token", help="tokens of clients: add, list, revoke", allow_abbrev=False)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="make a token and print it, once", allow_abbrev=False)
    add.add_argument("name", metavar="NAME", help="a name for its user; a name is never used again")
    add.add_argument("--role", required=True, choices=[role.value for role in Role])
    add.add_argument("--tenant", default=DEFAULT_TENANT, help="the tenant whose builds it sees (default: default)")
    add.add_argument("--kernel", metavar="RELEASE", help="limit it to builds for this kernel")
    add.add_argument("--days", type=int, help="number of days that it is valid (default: until it is revoked)")
    add_common(add, _add)
    add_common(actions.add_parser("list", help="list the tokens", allow_abbrev=False), _list)
    revoke = actions.add_parser("revoke", help="revoke a token", allow_abbrev=False)
    revoke.add_argument("name", metavar="NAME")
    add_common(revoke, _revoke)


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[tuple[Tokens, Audit]]:
    settings = settings_of(arguments)
    make_state_directory(settings.state_dir)
    database = open_tables(settings)
    try:
        yield Tokens(database), Audit(database)
    finally:
        database.dispose()


def _add(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    account = Account(
        name=arguments.name,
        role=Role(arguments.role),
        tenant=arguments.tenant,
        kernel=parse_release(arguments.kernel) if arguments.kernel else "",
    )
    with _opened(arguments) as (tokens, audit):
        token = tokens.add(account, days=arguments.days)
        audit.note(who=_HERE, tenant=account.tenant, action="token.add", subject=account.name)
    output.document({"name": account.name, "token": token})
    output.line(token)
    output.note("This is the only time that the token is shown.")
    return ExitStatus.OK


def _list(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    with _opened(arguments) as (tokens, _):
        found = tokens.list()
    output.document([asdict(token) for token in found])
    rows = [(token.name, token.role.value, token.tenant, token.kernel or "any", _state(token)) for token in found]
    output.table(("NAME", "ROLE", "TENANT", "KERNEL", "STATE"), rows)
    return ExitStatus.OK


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if not token.is_valid:
        return "expired"
    return "valid" if token.expires_at is None else f"valid until {token.expires_at:%Y-%m-%d}"


def _revoke(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    with _opened(arguments) as (tokens, audit):
        revoked = tokens.revoke(arguments.name)
        audit.note(who=_HERE, tenant=revoked.tenant, action="token.revoke", subject=revoked.name)
    output.document(asdict(revoked))
    output.line(f"{revoked.name} is revoked.")
    return ExitStatus.OK
