# SPDX-License-Identifier: GPL-2.0-or-later
"""A command that does not exist is named in one sentence, with the one that was probably meant."""

from __future__ import annotations

import json

import pytest

from elivepatch.client.cli import main as client
from elivepatch.model.errors import ExitStatus
from elivepatch.service.cli import main as server


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("lsit", ": did you mean `elivepatch list`?"),
        ("aply x.patch", ": did you mean `elivepatch apply`?"),
        ("cve lst --json", ": did you mean `elivepatch cve list`?"),
        ("cve close-all", ": did you mean `elivepatch cve close`"),
        ("overlay updat", ": did you mean `elivepatch overlay update`?"),
        ("closed CVE-2026-1234", ": did you mean `elivepatch cve closed`?"),
        ("lint overlay", ": did you mean `elivepatch overlay lint`?"),
        ("zzz", "."),
        ("cve zzz", "."),
    ],
)
def test_a_mistyped_command_is_told_with_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], words: str, meant: str
) -> None:
    assert client(words.split()) == ExitStatus.USAGE
    told = capsys.readouterr()
    message = json.loads(told.out)["problem"]["message"] if "--json" in words else told.err.splitlines()[0]
    typed = words.split()[1] if words.startswith(("cve", "overlay")) else words.split()[0]
    assert f"There is no command {typed!r}{meant}" in message
    assert "choose from" not in message


def test_the_servers_commands_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert server(["serv"]) == ExitStatus.USAGE
    assert "did you mean `elivepatch-server serve`?" in capsys.readouterr().err


def test_a_value_that_an_option_does_not_know_is_told_with_those_that_it_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert client(["cve", "list", "--state", "afected"]) == ExitStatus.USAGE
    assert "affected" in capsys.readouterr().err
