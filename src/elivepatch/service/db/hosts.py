# SPDX-License-Identifier: GPL-2.0-or-later
"""Last report of each host: recorded, listed, removed, and expired after a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from elivepatch.service.db.database import now
from elivepatch.service.db.tables import hosts


class HostReports:
    """Reports of one database. A host is identified by the token that it reports with and its name."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database

    def record(self, token: str, name: str, tenant: str, report: Mapping[str, Any], *, limit: int) -> sa.RowMapping:
        """Replace the report of a host and return its row.

        If the token now has more than `limit` hosts, those that reported longest ago are removed: a token that many
        short-lived machines share must not lock out the next one.
        """
        with self._database.begin() as connection:
            values = {"tenant": tenant, "seen_at": now(connection), "report": dict(report)}
            insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(hosts)
            statement = insert.values(token=token, name=name, **values).on_conflict_do_update(
                index_elements=["token", "name"], set_=values
            )
            row = connection.execute(statement.returning(*hosts.c)).mappings().one()
            same_token = hosts.c.token == token
            others = sa.select(hosts.c.name).where(same_token, hosts.c.name != name)
            beyond = others.order_by(hosts.c.seen_at.desc()).offset(limit - 1).subquery()
            connection.execute(sa.delete(hosts).where(same_token, hosts.c.name.in_(sa.select(beyond.c.name))))
        return row

    def page(self, tenant: str | None, *, after: tuple[str, str], limit: int) -> Sequence[sa.RowMapping]:
        """Return at most `limit` hosts of a tenant, None for all, by name and token, after a name and a token."""
        place = sa.tuple_(hosts.c.name, hosts.c.token)
        query = sa.select(hosts).where(place > sa.tuple_(*after)).order_by(hosts.c.name, hosts.c.token).limit(limit)
        if tenant is not None:
            query = query.where(hosts.c.tenant == tenant)
        with self._database.connect() as connection:
            return connection.execute(query).mappings().all()

    def remove(self, tenant: str | None, name: str, *, token: str | None = None) -> int:
        """Remove the hosts of a name, of one tenant and token or of all; return how many they were."""
        chosen = sa.delete(hosts).where(hosts.c.name == name)
        if token is not None:
            chosen = chosen.where(hosts.c.token == token)
        if tenant is not None:
            chosen = chosen.where(hosts.c.tenant == tenant)
        with self._database.begin() as connection:
            return connection.execute(chosen).rowcount

    def expire(self, age: timedelta) -> int:
        """Remove the hosts whose last report is older than `age`; return how many they were."""
        with self._database.begin() as connection:
            return connection.execute(sa.delete(hosts).where(hosts.c.seen_at < now(connection) - age)).rowcount
