# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables: the migrations make what the code expects, on either kind of database, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.schema import CreateIndex, CreateTable

from elivepatch.service.db import database
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.db.tables import REVISION, builds, events, hosts, metadata, partial_indexes, tokens

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(sqlite_url(tmp_path / "a %20 # database.db"))
    migrate(engine)
    yield engine
    engine.dispose()


def test_the_migrations_make_the_tables_that_the_code_names(engine: sa.Engine) -> None:
    assert partial_indexes()
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        kept = {constraint["name"] for constraint in sa.inspect(connection).get_check_constraints("builds")}
    assert kept == {constraint.name for constraint in builds.constraints if isinstance(constraint, sa.CheckConstraint)}


def test_the_revision_that_the_code_names_is_that_of_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_migrating_again_changes_nothing(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(tokens).values(digest="00", name="kept", created_at=NOW))
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.select(tokens.c.name)).scalar_one() == "kept"


def test_a_migration_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_database(sqlite_url(tmp_path / "db"))

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_index", cut_off)
        with pytest.raises(KeyboardInterrupt):
            migrate(engine)
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    migrate(engine)
    engine.dispose()


def test_sqlite_keeps_its_promises(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_the_tables_suit_postgresql() -> None:
    dialect = sa.make_url("postgresql+psycopg://").get_dialect()()
    written = [str(CreateTable(table).compile(dialect=dialect)) for table in (builds, events, hosts, tokens)]
    written += [str(CreateIndex(index).compile(dialect=dialect)) for index in partial_indexes()]
    assert any("BIGSERIAL" in statement for statement in written)
    assert any("WHERE (status <> 'done' OR reusable)" in statement for statement in written)


def test_an_event_without_its_job_is_refused(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.insert(events).values(build="f" * 16, at=NOW, kind="state", data={}))


def test_moments_are_utc_whatever_they_come_as(engine: sa.Engine) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5)))
    with engine.begin() as connection:
        connection.execute(sa.insert(tokens).values(digest="00", name="n", created_at=elsewhere))
        kept = connection.execute(sa.select(tokens.c.created_at)).scalar_one()
    assert kept == NOW
    assert kept.tzinfo is UTC
    with pytest.raises(sa.exc.StatementError), engine.begin() as connection:
        connection.execute(sa.insert(tokens).values(digest="01", name="m", created_at=NOW.replace(tzinfo=None)))


def test_the_module_does_not_open_anything_by_itself() -> None:
    assert not any(isinstance(value, sa.Engine) for value in vars(database).values())
