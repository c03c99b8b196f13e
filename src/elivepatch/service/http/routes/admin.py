# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of whoever runs the server: tokens, the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.http.dependencies import With, may, told
from elivepatch.service.http.wire import AuditAnswer, EntryAnswer, MadeTokenAnswer, TokenAnswer, TokenBody, TokensAnswer

_MAX_NUMBER = 2**31 - 1

router = APIRouter()


@router.get("/tokens")
def tokens(services: With, _asker: Annotated[Account, may(Right.TOKENS)]) -> TokensAnswer:
    """List the tokens, without the tokens themselves: those are shown once."""
    return TokensAnswer(tokens=[TokenAnswer.of(token) for token in services.tokens.list()])


@router.post("/tokens", status_code=201, responses=told(400, 409, 413))
def add_token(services: With, asker: Annotated[Account, may(Right.TOKENS)], body: TokenBody) -> MadeTokenAnswer:
    """Make a token. This is the only answer that ever shows it."""
    account = body.account()
    token = services.tokens.add(account, days=body.days)
    services.audit.note(who=asker.name, tenant=asker.tenant, action="token.add", subject=account.name)
    return MadeTokenAnswer(name=account.name, token=token)


@router.delete("/tokens/{name}", responses=told(404))
def revoke_token(
    services: With, asker: Annotated[Account, may(Right.TOKENS)], name: Annotated[str, Path(max_length=40)]
) -> TokenAnswer:
    """Let a token in no more."""
    revoked = services.tokens.revoke(name)
    services.audit.note(who=asker.name, tenant=asker.tenant, action="token.revoke", subject=revoked.name)
    return TokenAnswer.of(revoked)


@router.get("/audit")
def audit(
    services: With,
    _asker: Annotated[Account, may(Right.AUDIT)],
    after: Annotated[int, Query(ge=0, le=_MAX_NUMBER)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> AuditAnswer:
    """List who did what, oldest first, from after the entry `after`."""
    found = services.audit.page(after=after, limit=limit + 1)
    return AuditAnswer(
        entries=[EntryAnswer.of(entry) for entry in found[:limit]],
        next=found[limit - 1].number if len(found) > limit else None,
    )
