# SPDX-License-Identifier: GPL-2.0-or-later
"""${message}."""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Bring the tables one step forward."""
    ${upgrades if upgrades else "pass"}
