# SPDX-License-Identifier: GPL-2.0-or-later
"""Public key of the servers that share a database."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table; the next start of a server fills it."""
    op.create_table(
        "signing_key",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_signing_key"),
    )
