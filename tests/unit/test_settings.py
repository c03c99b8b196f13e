# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings: flags over environment over file over defaults, and a clear word about what is wrong."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from elivepatch.model.errors import Problem, UsageError
from elivepatch.settings import RANGES, ClientSettings, ServerSettings, load


def refusal(file: Path, *, environ: dict[str, str] | None = None, required: bool = False) -> Problem:
    with pytest.raises(UsageError) as caught:
        load(ServerSettings(), file=file, flags={}, environ=environ or {}, required=required)
    assert caught.value.problem.code == "settings"
    return caught.value.problem


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    assert load(ClientSettings(), file=tmp_path / "none.toml", flags={}, environ={}) == ClientSettings()


def test_each_source_overrides_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text('url = "http://file"\ntoken = "file"\ntimeout_s = 5\n')
    file.chmod(0o600)
    found = load(
        ClientSettings(),
        file=file,
        environ={"ELIVEPATCH_TOKEN": "environment", "ELIVEPATCH_TIMEOUT_S": "6", "OTHER": "x"},
        flags={"timeout_s": 7.5, "url": None, "verbose": True},
    )
    assert (found.url, found.token, found.timeout_s) == ("http://file", "environment", 7.5)


def test_values_get_the_type_of_their_setting(tmp_path: Path) -> None:
    found = load(
        ServerSettings(),
        file=tmp_path / "none.toml",
        flags={},
        environ={"ELIVEPATCH_PORT": "80", "ELIVEPATCH_CACHE_DIR": "/c"},
    )
    assert (found.port, found.cache_dir) == (80, Path("/c"))


def test_a_requested_file_must_exist(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.toml", required=True).message


def test_an_unknown_setting_is_named_with_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("prot = 1\n")
    problem = refusal(tmp_path / "s.toml")
    assert "prot" in problem.message
    assert "port" in problem.advice


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"[port\n", b"port 1"])
def test_a_damaged_file_is_reported_as_such(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.toml").write_bytes(content)
    assert "cannot be read" in refusal(tmp_path / "s.toml").message


def test_a_directory_in_place_of_the_file_is_reported_as_such(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path).message


@pytest.mark.parametrize(
    "content", ["port = true", "port = [1]", "port = {a = 1}", 'port = "eighty"', "port = 2026-01-01"]
)
def test_a_value_of_the_wrong_type_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.toml").write_text(content + "\n")
    assert "port" in refusal(tmp_path / "s.toml").message


@pytest.mark.parametrize("text", ["many", "3.5", "nan", "inf", "-1", "0", "1025", "", " ", "9" * 5000])
def test_a_wrong_value_in_the_environment_is_refused_with_its_variable_and_what_is_allowed(
    tmp_path: Path, text: str
) -> None:
    problem = refusal(tmp_path / "none.toml", environ={"ELIVEPATCH_JOBS": text})
    assert problem.message.startswith(f"jobs in the variable ELIVEPATCH_JOBS is {text[:80]!r};")
    assert problem.message.endswith("it must be a whole number from 1 to 1024.")


@pytest.mark.parametrize("number", ["8440.5", "8440.0", "nan", "-1", "65536"])
def test_a_number_out_of_its_range_is_refused_with_its_file_and_what_is_allowed(tmp_path: Path, number: str) -> None:
    (tmp_path / "s.toml").write_text(f"port = {number}\n")
    problem = refusal(tmp_path / "s.toml")
    assert f"port in {tmp_path / 's.toml'} is '{number}'" in problem.message
    assert "a whole number from 0 to 65535" in problem.message


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1, 0.5])
def test_a_number_out_of_its_range_is_refused_on_the_command_line(tmp_path: Path, number: float) -> None:
    with pytest.raises(UsageError, match=r"step_limit_s on the command line is .* a number from 1 to 604800"):
        load(ServerSettings(), file=tmp_path / "none.toml", flags={"step_limit_s": number}, environ={})


def test_no_text_is_made_of_a_number_and_no_directory_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("host = 1\n")
    assert "must be a text" in refusal(tmp_path / "s.toml").message
    assert "the path of a directory" in refusal(tmp_path / "none", environ={"ELIVEPATCH_STATE_DIR": ""}).message


@pytest.mark.parametrize("settings", [ServerSettings(), ClientSettings()])
def test_every_number_has_a_range_and_its_default_is_in_it(settings: ServerSettings | ClientSettings) -> None:
    numbers = {field.name: getattr(settings, field.name) for field in fields(settings)}
    for name, value in numbers.items():
        if isinstance(value, (int, float)):
            low, high = RANGES[name]
            assert low <= value <= high


@pytest.mark.parametrize(
    ("client", "line"),
    [
        (True, 'token = "elp_secret"'),
        (False, 'database = "postgresql://elivepatch:secret@db.example.net/elivepatch"'),
    ],
)
@pytest.mark.parametrize("mode", [0o644, 0o602, 0o666])
def test_a_file_with_a_secret_that_everybody_can_read_is_refused(
    tmp_path: Path, client: bool, line: str, mode: int
) -> None:
    def loaded() -> ClientSettings | ServerSettings:
        if client:
            return load(ClientSettings(), file=file, flags={}, environ={})
        return load(ServerSettings(), file=file, flags={}, environ={})

    file = tmp_path / "settings.toml"
    file.write_text(f"{line}\n")
    file.chmod(mode)
    with pytest.raises(UsageError) as caught:
        loaded()
    assert caught.value.problem.code == "secret-readable"
    assert "secret@" not in caught.value.problem.message
    file.chmod(0o640)
    loaded()


def test_a_file_without_a_secret_may_be_read_by_everybody(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('database = "sqlite:///var/lib/x.db"\n')
    file.chmod(0o644)
    assert load(ServerSettings(), file=file, flags={}, environ={}).database == "sqlite:///var/lib/x.db"
