# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry of Alembic: runs the migrations on the connection that `database.migrate` passes."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
