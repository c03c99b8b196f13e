# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes for the reports of hosts: each host sends one after a run of `elivepatch auto`, and the last one is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from elivepatch.model.errors import TrustError, UsageError
from elivepatch.model.kernel import parse_release
from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.db.hosts import HostReports
from elivepatch.service.http.dependencies import ServicesDep, error_responses, json_response, requires

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

_Count = Annotated[int, Field(ge=0, le=1_000_000)]

router = APIRouter()


class HostBody(BaseModel):
    """Result of a run. `open` is null if the kernel's sources are not known; `problem` is the code of a failure."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kernel: str = Field(max_length=200, examples=["6.1.0-50-cloud-amd64"], description="What `uname -r` prints.")
    build_id: str = Field(max_length=128, pattern=r"^[0-9a-f]*$")
    result: Literal["closed", "nothing-to-do", "failed"]
    problem: str = Field(default="", max_length=60, pattern=r"^[a-z0-9-]*$")
    livepatches: Annotated[
        list[Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]], Field(max_length=64)
    ]
    open: _Count | None
    closed: _Count
    needs_reboot: _Count


class HostAnswer(HostBody):
    """Last report of a host, its time, and the token that the host used."""

    model_config = ConfigDict(extra="forbid", strict=False)

    name: str
    tenant: str
    token: str
    seen_at: datetime

    @classmethod
    def of(cls, row: sa.RowMapping) -> Self:
        """Return the answer for a row of the table."""
        return cls.model_validate(row["report"] | {key: row[key] for key in ("name", "tenant", "token", "seen_at")})


class HostsAnswer(BaseModel):
    """Hosts by name. `next` is the `after` of the page that follows, null on the last one."""

    hosts: list[HostAnswer]
    next: str | None


def _tenant(account: Account) -> str | None:
    """Return the tenant whose hosts the account may see, None for all."""
    return None if account.may(Right.EVERY_TENANT) else account.tenant


@router.put("/hosts/{name}", responses=error_responses(400, 413))
def report(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.REPORT)],
    name: Annotated[str, Path(max_length=120, pattern=_NAME)],
    body: HostBody,
) -> HostAnswer:
    """Report how the last run on a host ended, and how many CVEs are open there."""
    if not account.sees(tenant=account.tenant, release=parse_release(body.kernel)):
        raise TrustError(
            "role-insufficient",
            "This token is bound to another kernel.",
            advice="Give the host a token for the kernel that it runs; docs/accounts.md says how.",
        )
    reports = HostReports(services.resources.database)
    limit = services.resources.settings.hosts_per_token
    return HostAnswer.of(reports.record(account.name, name, account.tenant, body.model_dump(), limit=limit))


@router.get("/hosts", response_model=HostsAnswer)
def listed(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.HOSTS)],
    after: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """List the last report of each host."""
    name, _, token = after.partition("/")
    found = HostReports(services.resources.database).page(_tenant(account), after=(name, token), limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    answer = HostsAnswer(
        hosts=[HostAnswer.of(row) for row in found[:limit]],
        next=f"{last['name']}/{last['token']}" if last is not None else None,
    )
    return json_response(answer)


class RemovedHostsAnswer(BaseModel):
    """Number of hosts that were removed."""

    removed: int


@router.delete("/hosts/{name}", responses=error_responses(404))
def remove(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.REMOVE_HOSTS)],
    name: Annotated[str, Path(max_length=120, pattern=_NAME)],
    token: Annotated[str | None, Query(max_length=40)] = None,
) -> RemovedHostsAnswer:
    """Remove a host that reports no more: of all tokens that reported for this name, or of the one given.

    A host that still runs appears again with its next report; revoke its token to prevent that.
    """
    removed = HostReports(services.resources.database).remove(_tenant(account), name, token=token)
    if not removed:
        raise UsageError("host-unknown", "The server knows no host of this name.", advice="GET /v1/hosts lists them.")
    services.resources.audit.note(who=account.name, tenant=account.tenant, action="host.remove", subject=name)
    return RemovedHostsAnswer(removed=removed)
