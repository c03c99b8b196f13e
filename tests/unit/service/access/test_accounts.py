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
from elivepatch.service.access import accounts
from elivepatch.service.access.accounts import Tokens
from elivepatch.service.access.signing_key import open_signing_key
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.trust.keys import ServerKey


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


def test_a_start_that_was_cut_off_after_the_database_knew_is_made_good(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "operator.token"
    with monkeypatch.context() as patched:
        patched.setattr(accounts, "publish", cut_off)
        with pytest.raises(KeyboardInterrupt):
            Tokens(engine).ensure_operator(file)
    assert Tokens(engine).ensure_operator(file)
    Tokens(engine).check(file.read_text().strip())


def test_of_two_first_starts_one_writes_the_token_and_the_other_none(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.token", tmp_path / "two.token"
    late = Tokens(engine)
    # The late one has looked before the other one wrote.
    monkeypatch.setattr(late, "_operator_digest", lambda: None)
    assert Tokens(engine).ensure_operator(one)
    assert not late.ensure_operator(two)
    Tokens(engine).check(one.read_text().strip())
    assert [found.name for found in tmp_path.glob("two*")] == []


def test_servers_of_one_database_sign_with_one_key(engine: sa.Engine, tmp_path: Path) -> None:
    one, two = tmp_path / "one.key", tmp_path / "two.key"
    key = open_signing_key(engine, one, shared=True)
    assert open_signing_key(engine, one, shared=True).public == key.public
    with pytest.raises(EnvironmentFault) as refused:
        open_signing_key(engine, two, shared=True)
    assert refused.value.problem.code == "signing-key"
    assert str(two) in refused.value.problem.advice
    assert not two.exists()
    two.write_bytes(one.read_bytes())
    two.chmod(0o600)
    assert open_signing_key(engine, two, shared=True).public == key.public


def test_a_server_that_shares_nothing_makes_a_key_that_was_lost_again(engine: sa.Engine, tmp_path: Path) -> None:
    file = tmp_path / "signing.key"
    old = open_signing_key(engine, file, shared=False)
    file.unlink()
    assert open_signing_key(engine, file, shared=False).public != old.public


def test_of_two_first_starts_one_keeps_its_key(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.key", tmp_path / "two.key"
    key = open_signing_key(engine, one, shared=True)
    looks = iter([None, key.public.raw.hex()])
    with monkeypatch.context() as patched:
        patched.setattr("elivepatch.service.access.signing_key._known", lambda _: next(looks))
        with pytest.raises(EnvironmentFault):
            open_signing_key(engine, two, shared=True)
    assert not two.exists()


def test_a_key_that_an_operator_replaced_is_used(engine: sa.Engine, tmp_path: Path) -> None:
    open_signing_key(engine, tmp_path / "old.key", shared=True)
    new = ServerKey.load_or_create(tmp_path / "new.key")
    assert open_signing_key(engine, tmp_path / "new.key", shared=True).public == new.public


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
