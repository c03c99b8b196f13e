# SPDX-License-Identifier: GPL-2.0-or-later
"""Tokens: one is made at the first start, and only its digest stays in the database."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service.access.accounts import Tokens
from elivepatch.service.db.database import migrate, open_database, sqlite_url


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(sqlite_url(tmp_path / "db"))
    migrate(engine)
    yield engine
    engine.dispose()


def test_the_first_start_writes_a_token_that_only_its_owner_can_read(engine: sa.Engine, tmp_path: Path) -> None:
    file = tmp_path / "operator.token"
    assert Tokens(engine).ensure_operator(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text().strip()
    assert len(token) >= 43
    Tokens(engine).check(token)
    assert token.encode() not in (tmp_path / "db").read_bytes() + (tmp_path / "db-wal").read_bytes()


def test_a_later_start_leaves_the_token_alone(engine: sa.Engine, tmp_path: Path) -> None:
    file = tmp_path / "operator.token"
    Tokens(engine).ensure_operator(file)
    before = file.read_text()
    assert not Tokens(engine).ensure_operator(file)
    assert file.read_text() == before


def test_a_start_that_was_cut_off_before_the_database_knew_is_made_good(engine: sa.Engine, tmp_path: Path) -> None:
    file = tmp_path / "operator.token"
    file.write_text("elp_of-a-start-that-was-killed\n")
    assert Tokens(engine).ensure_operator(file)
    Tokens(engine).check(file.read_text().strip())


@given(st.text())
def test_no_other_token_is_let_in(token: str) -> None:
    engine = open_database("sqlite://")
    migrate(engine)
    with pytest.raises(EnvironmentFault) as refused:
        Tokens(engine).check(token)
    engine.dispose()
    assert refused.value.problem.code == "token-refused"


def test_a_part_of_the_token_or_more_than_it_is_not_let_in(engine: sa.Engine, tmp_path: Path) -> None:
    Tokens(engine).ensure_operator(tmp_path / "t")
    token = (tmp_path / "t").read_text().strip()
    for wrong in (token[:-1], token + "A", token.upper(), "", token + "\n" * 300):
        with pytest.raises(EnvironmentFault):
            Tokens(engine).check(wrong)
