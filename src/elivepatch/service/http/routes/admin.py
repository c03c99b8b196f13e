# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes for the server's operator: tokens and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.http.dependencies import ServicesDep, error_responses, json_response, requires
from elivepatch.service.http.wire import AuditAnswer, EntryAnswer, MadeTokenAnswer, TokenAnswer, TokenBody, TokensAnswer

_MAX_NUMBER = 2**31 - 1

router = APIRouter()


@router.get("/tokens", response_model=TokensAnswer)
def tokens(services: ServicesDep, _account: Annotated[Account, requires(Right.TOKENS)]) -> Response:
    """List the tokens without their secrets, which are shown once."""
    answer = TokensAnswer(tokens=[TokenAnswer.of(token) for token in services.resources.tokens.list()])
    return json_response(answer)


@router.post("/tokens", status_code=201, responses=error_responses(400, 409, 413))
def add_token(
    services: ServicesDep, account: Annotated[Account, requires(Right.TOKENS)], body: TokenBody
) -> MadeTokenAnswer:
    """Make a token. Only this answer shows its secret."""
    added = body.account()
    token = services.resources.tokens.add(added, days=body.days)
    services.resources.audit.note(who=account.name, tenant=account.tenant, action="token.add", subject=added.name)
    return MadeTokenAnswer(name=added.name, token=token)


@router.delete("/tokens/{name}", responses=error_responses(404))
def revoke_token(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.TOKENS)],
    name: Annotated[str, Path(max_length=40)],
) -> TokenAnswer:
    """Revoke a token."""
    revoked = services.resources.tokens.revoke(name)
    services.resources.audit.note(who=account.name, tenant=account.tenant, action="token.revoke", subject=revoked.name)
    return TokenAnswer.of(revoked)


@router.get("/audit", response_model=AuditAnswer)
def audit(
    services: ServicesDep,
    _account: Annotated[Account, requires(Right.AUDIT)],
    after: Annotated[int, Query(ge=0, le=_MAX_NUMBER)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """List the audit log, oldest entry first, from after the entry `after`."""
    found = services.resources.audit.page(after=after, limit=limit + 1)
    answer = AuditAnswer(
        entries=[EntryAnswer.of(entry) for entry in found[:limit]],
        next=found[limit - 1].number if len(found) > limit else None,
    )
    return json_response(answer)
