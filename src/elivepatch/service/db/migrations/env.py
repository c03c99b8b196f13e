# SPDX-License-Identifier: GPL-2.0-or-later
"""Alembic's entry: runs the steps on the connection that `database.migrate` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
