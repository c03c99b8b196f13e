# SPDX-License-Identifier: GPL-2.0-or-later
"""Backup, restore, check-up, tokens and audit from the command line, and a database of the version before."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from assembled import assembled

from elivepatch.service import cli
from elivepatch.service.access.accounts import Role, Tokens
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.jobs.jobs import Jobs


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("elivepatch.service.commands.options.SERVER_FILE", tmp_path / "none.toml")
    for name in ("DATABASE", "STORE", "STATE_DIR"):
        monkeypatch.delenv(f"ELIVEPATCH_{name}", raising=False)


def test_a_backup_of_a_running_server_restores_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "backup.tar"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with assembled(tmp_path / "one") as server:
        done = server.done("sleep 0\nkept")
        waiting = server.ask("sleep 60\nwaiting").json()["id"]
        module = server.http.get(f"/v1/builds/{done['id']}/module").content
        key = server.http.get("/v1/key").json()
        headers = dict(server.http.headers)
        (server.state / "records.idx").write_bytes(b"what is known about CVEs")
        assert cli.main(["backup", str(file), "--state", str(server.state)]) == 0
        assert cli.main(["backup", str(file), "--state", str(server.state)]) == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert cli.main(["restore", str(file), "--state", str(tmp_path / "two")]) == 0
    assert cli.main(["restore", str(file), "--state", str(tmp_path / "two")]) == 2
    with assembled(tmp_path / "two") as server:
        server.http.headers.update(headers)
        assert server.http.get("/v1/key").json() == key
        assert server.http.get(f"/v1/builds/{done['id']}/module").content == module
        assert server.http.get(f"/v1/builds/{waiting}").json()["status"] in {"queued", "running"}
        assert server.http.delete(f"/v1/builds/{waiting}").status_code == 200
    assert (tmp_path / "two" / "records.idx").read_bytes() == b"what is known about CVEs"
    assert (tmp_path / "two" / "signing.key").stat().st_mode & 0o777 == 0o600
    capsys.readouterr()


def test_a_server_that_never_started_can_be_backed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, file = tmp_path / "one", tmp_path / "two", tmp_path / "backup.tar"
    assert cli.main(["token", "add", "web", "--role", "host", "--state", str(one)]) == 0
    assert cli.main(["backup", str(file), "--state", str(one)]) == 0
    assert cli.main(["restore", str(file), "--state", str(two)]) == 0
    capsys.readouterr()
    assert cli.main(["token", "list", "--json", "--state", str(two)]) == 0
    assert [token["name"] for token in json.loads(capsys.readouterr().out)] == ["web"]


@pytest.mark.parametrize("name", ["what?", "a#b", "a%20b", "c?mode=memory"])
def test_a_state_directory_of_any_name_is_backed_up(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["token", "add", "web", "--role", "host", "--state", str(tmp_path / name)]) == 0
    assert cli.main(["backup", str(tmp_path / "b.tar"), "--state", str(tmp_path / name)]) == 0
    assert cli.main(["restore", str(tmp_path / "b.tar"), "--state", str(tmp_path / "two")]) == 0
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([name, "b.tar", "two"]), "nothing else is made"
    capsys.readouterr()
    assert cli.main(["token", "list", "--json", "--state", str(tmp_path / "two")]) == 0
    assert [token["name"] for token in json.loads(capsys.readouterr().out)] == ["web"]


def test_a_backup_that_fails_leaves_no_file_and_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, file = tmp_path / "state", tmp_path / "backup.tar"
    assert cli.main(["token", "add", "web", "--role", "host", "--state", str(state)]) == 0
    (state / "engine.db").write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    capsys.readouterr()
    assert cli.main(["backup", str(file), "--json", "--state", str(state)]) == 4
    assert "backup-failed" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [state]
    (state / "engine.db").unlink()
    assert cli.main(["backup", str(file), "--state", str(state)]) == 0


def test_a_restore_that_fails_leaves_the_directory_empty(tmp_path: Path) -> None:
    file, state = tmp_path / "cut.tar", tmp_path / "state"
    with tarfile.open(file, "w") as archive:
        for name in ("elivepatch.db", "elivepatch.db"):  # the second cannot be written over the first
            archive.addfile(tarfile.TarInfo(name))
    assert cli.main(["restore", str(file), "--state", str(state)]) == 4
    assert list(state.iterdir()) == []


def test_a_hostile_archive_restores_nothing_outside(tmp_path: Path) -> None:
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as archive:
        for name in ("elivepatch.db", "engine.db", "signing.key", "../outside"):
            archive.addfile(tarfile.TarInfo(name))
    assert cli.main(["restore", str(file), "--state", str(tmp_path / "state")]) == 2
    assert not (tmp_path / "outside").exists()
    assert list((tmp_path / "state").iterdir()) == [], "nothing half-made is left"
    (tmp_path / "text").write_text("no archive")
    assert cli.main(["restore", str(tmp_path / "text"), "--state", str(tmp_path / "other")]) == 2


def test_there_is_nothing_to_back_up_before_the_first_start(tmp_path: Path) -> None:
    assert cli.main(["backup", str(tmp_path / "b.tar"), "--state", str(tmp_path / "none")]) == 4
    assert cli.main(["backup", str(tmp_path / "b.tar"), "--database", "postgresql://x/y"]) == 2


def test_tokens_are_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(tmp_path), "--json"]
    add = ["token", "add", "web-1", "--role", "host", "--tenant", "web", "--kernel", "6.1.0-50-amd64", "--days", "7"]
    assert cli.main([*add, *state]) == 0
    token = json.loads(capsys.readouterr().out)["token"]
    assert cli.main([*add, *state]) == 2
    capsys.readouterr()
    assert cli.main(["token", "list", *state]) == 0
    out = capsys.readouterr().out
    assert token not in out
    (listed,) = json.loads(out)
    assert (listed["name"], listed["role"], listed["tenant"], listed["kernel"]) == (
        "web-1", "host", "web", "6.1.0-50-amd64",
    )  # fmt: skip
    database = open_database(sqlite_url(tmp_path / "elivepatch.db"))
    assert Tokens(database).check(token).role is Role.HOST
    assert cli.main(["token", "revoke", "web-1", *state]) == 0
    assert cli.main(["token", "revoke", "nobody", *state]) == 2
    capsys.readouterr()
    assert cli.main(["audit", "verify", *state]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["entries"], seen["broken"]) == (2, None)
    assert cli.main(["audit", "verify", "--head", seen["head"], *state]) == 0
    assert cli.main(["audit", "verify", "--head", "1" * 64, *state]) == 5
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE audit SET subject = 'another' WHERE number = 1"))
    database.dispose()
    assert cli.main(["audit", "verify", *state]) == 5
    assert cli.main(["audit", "verify", "--head", "x", *state]) == 2
    capsys.readouterr()


def test_a_check_up_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    arguments = ["doctor", "--state", str(tmp_path / "state"), "--cache", str(cache)]
    monkeypatch.setenv("ELIVEPATCH_PROVIDERS", "")
    assert cli.main([*arguments, "--json"]) == 4
    found = {check["what"]: check for check in json.loads(capsys.readouterr().out)}
    assert not found["kernels"]["well"]
    assert found["kernels"]["advice"]
    monkeypatch.setenv("ELIVEPATCH_PROVIDERS", "debian")
    cli.main([*arguments, "--json"])
    found = {check["what"]: check for check in json.loads(capsys.readouterr().out)}
    assert (found["kernels"]["well"], found["kernels"]["seen"]) == (
        True, "none yet; others are made on request (debian)"
    )  # fmt: skip
    assert found["database"]["well"]
    assert cli.main([*arguments, "--database", "postgresql://127.0.0.1:1/none", "--json"]) == 4
    found = {check["what"]: check for check in json.loads(capsys.readouterr().out)}
    assert not found["database"]["well"]


def test_a_check_up_says_what_keeps_the_sandbox_from_working(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elivepatch.service.doctor.own_group", lambda: None)
    (tmp_path / "closed").mkdir(mode=0o700)
    cache = tmp_path / "closed" / "cache"
    cache.mkdir()
    assert cli.main(["doctor", "--state", str(tmp_path / "state"), "--cache", str(cache), "--json"]) == 4
    found = {check["what"]: check for check in json.loads(capsys.readouterr().out)}
    assert "is closed to others" in found["cache directory"]["seen"]
    assert "chmod" in found["cache directory"]["advice"]
    assert "Delegate=memory" in found["memory of builds"]["advice"]


@pytest.mark.parametrize("url", ["nonsense", "oracle://x", "mysql://x/y"])
def test_a_database_that_is_not_understood_is_said_to_be(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["token", "list", "--state", str(tmp_path), "--database", url]) == 4
    assert "database-url" in capsys.readouterr().err


def test_workers_of_their_own_need_what_they_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["worker"], ["serve", "--no-worker"], ["worker", "--database", "postgresql://x/y"]):
        assert cli.main([*command, "--state", str(tmp_path)]) == 2
        assert "worker-shared" in capsys.readouterr().err


OLD_BUILD = (
    "INSERT INTO builds (id, job_key, build_key, reusable, release, kernel_build_id, request, status, result,"
    " cancel_requested, attempts, report, created_at, done_at) VALUES ('0123456789abcdef', 'k', 'b', TRUE, '6.1.0',"
    " 'cc', '{\"patches\": []}', 'done', 'success', FALSE, 1, '{}', '2026-11-20 12:00:00+00:00',"
    " '2026-11-20 12:01:00+00:00')"
)
OLD_TOKEN = "INSERT INTO tokens (digest, name, created_at) VALUES ('00', 'operator', '2026-11-20 12:00:00+00:00')"


def test_a_database_of_the_version_before_keeps_what_it_has(tmp_path: Path) -> None:
    database = open_database(sqlite_url(tmp_path / "db"))
    check_upgrade(database)
    database.dispose()


def check_upgrade(database: sa.Engine) -> None:
    """Bring a database of the first version to this one, and look whether all is there."""
    migrate(database, "0001")
    with database.begin() as connection:
        connection.exec_driver_sql(OLD_BUILD)
        connection.exec_driver_sql(OLD_TOKEN)
    migrate(database)
    job = Jobs(database).get("0123456789abcdef")
    assert job is not None
    assert (job.tenant, job.asked_by, job.reusable, job.place) == ("default", "operator", True, 0)
    (token,) = Tokens(database).list()
    assert (token.name, token.role, token.tenant, token.is_valid) == ("operator", Role.OPERATOR, "default", True)
