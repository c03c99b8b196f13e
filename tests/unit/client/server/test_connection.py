# SPDX-License-Identifier: GPL-2.0-or-later
"""Choice of server and token: flags before environment before client.toml before the server on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from elivepatch.client.commands.connection import add_connection, server_options
from elivepatch.client.options import ServerOptions
from elivepatch.client.server.connection import settings_of
from elivepatch.model.errors import UsageError
from elivepatch.settings import ClientSettings


def options(*flags: str) -> ServerOptions:
    parser = argparse.ArgumentParser()
    add_connection(parser)
    return server_options(parser.parse_args(flags))


def settings(tmp_path: Path, *flags: str, **environ: str) -> ClientSettings:
    return settings_of(
        options(*flags), environ=environ, file=tmp_path / "client.toml", local_token=tmp_path / "operator.token"
    )


def private(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)


def test_nothing_given_means_this_machine_without_a_token(tmp_path: Path) -> None:
    assert settings(tmp_path) == ClientSettings()


def test_a_flag_goes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text('url = "http://file:1"\ntoken = "of-file"\n')
    (tmp_path / "client.toml").chmod(0o600)
    private(tmp_path / "t", "of-flag\n")
    assert settings(tmp_path).url == "http://file:1"
    environ = {"ELIVEPATCH_URL": "http://env:2", "ELIVEPATCH_TOKEN": "of-environment"}
    assert settings(tmp_path, **environ).token == "of-environment"
    given = settings(tmp_path, "-u", "http://flag:3", "--token-file", str(tmp_path / "t"), **environ)
    assert (given.url, given.token) == ("http://flag:3", "of-flag")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8440", "http://localhost:1", "http://[::1]:8440"])
def test_the_token_of_the_server_on_this_machine_is_found(tmp_path: Path, url: str) -> None:
    private(tmp_path / "operator.token", "elp_local\n")
    assert settings(tmp_path, "-u", url).token == "elp_local"


@pytest.mark.parametrize("url", ["http://example.org", "http://127.0.0.1.example.org", "http://localhost.example.org"])
def test_the_token_of_this_machine_is_given_to_no_other(tmp_path: Path, url: str) -> None:
    private(tmp_path / "operator.token", "elp_local\n")
    assert settings(tmp_path, "-u", url).token == ""


def test_a_token_that_was_given_goes_before_that_of_this_machine(tmp_path: Path) -> None:
    private(tmp_path / "operator.token", "elp_local\n")
    assert settings(tmp_path, ELIVEPATCH_TOKEN="mine").token == "mine"


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for file in (tmp_path / "none", tmp_path, tmp_path / "binary"):
        with pytest.raises(UsageError) as refused:
            settings(tmp_path, "--token-file", str(file))
        assert str(file) in refused.value.problem.message


def test_a_token_file_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("elp_local\n")
    (tmp_path / "t").chmod(0o644)
    with pytest.raises(UsageError) as refused:
        settings(tmp_path, "--token-file", str(tmp_path / "t"))
    assert refused.value.problem.code == "secret-readable"
    assert "elp_local" not in refused.value.problem.message
