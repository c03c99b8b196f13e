# SPDX-License-Identifier: GPL-2.0-or-later
"""Signing key of the servers that share one database: all must sign with the same key, because hosts pin it.

The database holds the public key only. Each server keeps the private key in its state directory.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
import structlog

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.db.tables import signing_key
from elivepatch.trust.keys import ServerKey

# The table has one row, of this number: the primary key lets one of two first servers win.
_ROW = 1

_logger = structlog.get_logger()


def open_signing_key(database: sa.Engine, file: Path, *, shared: bool) -> ServerKey:
    """Return the signing key in `file`; make it if the database has no server yet.

    Raises EnvironmentFault with the code `signing-key` if another server of this database has made the key already
    and `file` is missing; of two servers that start at once on a new database, one gets this error and keeps no key.
    Unless the database is `shared`, this server is the only one, and a missing key is made again.
    A key in `file` that differs from the database's was put there on purpose: it is used, and the log says so.
    """
    if not shared:
        return ServerKey.load_or_create(file)
    new = not file.exists()
    known = _known(database)
    if new and known is not None:
        raise _elsewhere(file)
    key = ServerKey.load_or_create(file)
    public = key.public.raw.hex()
    if known is None:
        try:
            with database.begin() as connection:
                connection.execute(sa.insert(signing_key).values(number=_ROW, public_key=public))
            return key
        except sa.exc.IntegrityError:
            known = _known(database)
    if known == public:
        return key
    if new:
        file.unlink()
        raise _elsewhere(file)
    _logger.warning("signing-key.changed", file=str(file), advice="Hosts that pinned the other key must enrol again.")
    with database.begin() as connection:
        connection.execute(sa.update(signing_key).values(public_key=public))
    return key


def _known(database: sa.Engine) -> str | None:
    with database.connect() as connection:
        public: str | None = connection.execute(sa.select(signing_key.c.public_key)).scalar()
        return public


def _elsewhere(file: Path) -> EnvironmentFault:
    return EnvironmentFault(
        "signing-key",
        "Another server of this database has made the signing key, and this one does not have it.",
        advice=f"Copy signing.key from that server's state directory to {file}, then start again.",
    )
