# SPDX-License-Identifier: GPL-2.0-or-later
"""What hosts say of themselves after a run of `elivepatch auto`: the last word of each is kept and listed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects import postgresql, sqlite

from elivepatch.model.errors import TrustError
from elivepatch.model.kernel import parse_release
from elivepatch.service.access.accounts import Account, Right
from elivepatch.service.db.database import now
from elivepatch.service.db.tables import hosts
from elivepatch.service.http.dependencies import ServicesDep, error_responses, requires
from elivepatch.service.http.limits import LimitReached

_HOSTS_MAX = 1000
_RETRY_S = 3600
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

_Count = Annotated[int, Field(ge=0, le=1_000_000)]

router = APIRouter()


class HostBody(BaseModel):
    """How a run ended. `open` is null where nobody knows what the kernel builds, `problem` the code of what failed."""

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
    """What a host said last, when, and with whose token."""

    model_config = ConfigDict(extra="forbid", strict=False)

    name: str
    tenant: str
    token: str
    seen_at: datetime

    @classmethod
    def of(cls, row: sa.RowMapping) -> Self:
        """Return what the network is told about a row of the table."""
        return cls.model_validate(row["report"] | {key: row[key] for key in ("name", "tenant", "token", "seen_at")})


class HostsAnswer(BaseModel):
    """Hosts by name. `next` is the `after` of the page that follows, null on the last one."""

    hosts: list[HostAnswer]
    next: str | None


class Hosts:
    """The hosts of one database, each known by its token and its name."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def note(self, account: Account, name: str, body: HostBody) -> sa.RowMapping:
        """Keep what a host says in place of what it said before, and return its row.

        Raises LimitReached where the token has named too many hosts already.
        """
        with self._database.begin() as connection:
            same_token = hosts.c.token == account.name
            known = connection.execute(sa.select(hosts.c.name).where(same_token, hosts.c.name == name)).first()
            count = connection.execute(sa.select(sa.func.count()).where(same_token)).scalar_one()
            if known is None and count >= _HOSTS_MAX:
                raise LimitReached(
                    "too-many-hosts",
                    f"This token has reported for {_HOSTS_MAX} hosts.",
                    retry_s=_RETRY_S,
                    advice="Give each host a token of its own; docs/accounts.md says how.",
                )
            values = {"tenant": account.tenant, "seen_at": now(connection), "report": body.model_dump()}
            insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(hosts)
            kept = insert.values(token=account.name, name=name, **values).on_conflict_do_update(
                index_elements=["token", "name"], set_=values
            )
            return connection.execute(kept.returning(*hosts.c)).mappings().one()

    def page(self, account: Account, *, after: str, limit: int) -> Sequence[sa.RowMapping]:
        """Return the hosts that the account may know of, by name and token, from after the place `after`."""
        place = hosts.c.name + "/" + hosts.c.token
        chosen = sa.select(hosts).where(place > after).order_by(place).limit(limit)
        if not account.may(Right.EVERY_TENANT):
            chosen = chosen.where(hosts.c.tenant == account.tenant)
        with self._database.connect() as connection:
            return connection.execute(chosen).mappings().all()


@router.put("/hosts/{name}", responses=error_responses(400, 413))
def report(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.REPORT)],
    name: Annotated[str, Path(max_length=120, pattern=_NAME)],
    body: HostBody,
) -> HostAnswer:
    """Say how the last run on a host ended, and what is open there."""
    if not account.sees(tenant=account.tenant, release=parse_release(body.kernel)):
        raise TrustError(
            "role-insufficient",
            "This token is bound to another kernel.",
            advice="Give the host a token for the kernel that it runs; docs/accounts.md says how.",
        )
    return HostAnswer.of(Hosts(services.resources.database).note(account, name, body))


@router.get("/hosts")
def listed(
    services: ServicesDep,
    account: Annotated[Account, requires(Right.HOSTS)],
    after: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> HostsAnswer:
    """List what hosts said last."""
    found = Hosts(services.resources.database).page(account, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    return HostsAnswer(
        hosts=[HostAnswer.of(row) for row in found[:limit]],
        next=f"{last['name']}/{last['token']}" if last is not None else None,
    )
