# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of 2019 goes on working, and says what it is called now."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.client.cli import main
from elivepatch.client.commands import legacy
from elivepatch.model.errors import UsageError

RELEASE = "5.1.6-gentoo"


def test_patch_and_server_become_apply() -> None:
    found = legacy.translate(["-p", "fix.patch", "-u", "http://127.0.0.1:5000"], release=RELEASE)
    assert found.argv == ("apply", "fix.patch", "--url", "http://127.0.0.1:5000")
    assert found.hints[0].endswith("`elivepatch apply fix.patch --url http://127.0.0.1:5000`")


def test_the_long_forms_and_what_argparse_let_people_shorten_work() -> None:
    argv = ["--patch", "fix.patch", "--kernel", "5.1.6", "--config", "/proc/config.gz", "--url=http://127.0.0.1:5000"]
    assert legacy.translate(argv, release=RELEASE).argv == ("apply", "fix.patch", "--url", "http://127.0.0.1:5000")


def test_options_that_are_not_needed_any_more_are_named() -> None:
    argv = ["-p", "x", "-k", "/boot/config", "-d", "info", "-l", "-o", "log.txt"]
    found = legacy.translate(argv, release=RELEASE)
    told = "\n".join(found.hints)
    assert all(option in told for option in ("-k ", "-d ", "-l ", "-o "))
    assert found.log_file == Path("log.txt")


def test_an_ini_file_gives_what_the_command_line_does_not(tmp_path: Path) -> None:
    file = tmp_path / "elivepatch.ini"
    file.write_text("[Defaults]\nurl = http://127.0.0.1:5000\npatch = old.patch\ncve = False\nunknown = 1\n")
    found = legacy.translate(["-c", str(file), "-p", "new.patch"], release=RELEASE)
    assert found.argv == ("apply", "new.patch", "--url", "http://127.0.0.1:5000")


@pytest.mark.parametrize("content", ["url = x\n", "[Other]\nurl = x\n", "\0", "[Defaults]\n[Defaults]\n"])
def test_a_malformed_ini_file_is_reported(tmp_path: Path, content: str) -> None:
    file = tmp_path / "elivepatch.ini"
    file.write_text(content)
    with pytest.raises(UsageError):
        legacy.translate(["-c", str(file), "-p", "x"], release=RELEASE)


@pytest.mark.parametrize("version", ["5.1.6", "5.1.6-gentoo", "5.1"])
def test_the_running_kernels_version_is_taken_and_another_is_not(version: str) -> None:
    assert legacy.translate(["-p", "x", "-a", version], release=RELEASE).argv == ("apply", "x")
    with pytest.raises(UsageError) as caught:
        legacy.translate(["-p", "x", "-a", "5.2"], release=RELEASE)
    assert caught.value.problem.code == "other-kernel"


def test_the_cve_mode_becomes_cve_close() -> None:
    found = legacy.translate(["-e", "-a", "5.1.6", "-u", "http://127.0.0.1:5000"], release=RELEASE)
    assert found.argv == ("cve", "close", "--url", "http://127.0.0.1:5000")
    assert "policy.toml" in "".join(found.hints)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["-v"], ["-d", "info", "-v"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith("elivepatch ")


def test_an_empty_request_is_reported_with_the_new_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-u", "http://127.0.0.1:5000"]) == 2
    assert "elivepatch apply PATCH" in capsys.readouterr().err


def test_messages_go_to_the_old_log_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.txt"

    def command(argv: object) -> int:
        sys.stderr.write("shown\n")
        return 3

    assert legacy.run(["-p", "x", "-o", str(log)], command, release=RELEASE) == 3
    assert log.read_text().endswith("shown\n")
    assert capsys.readouterr().err.endswith("shown\n")


def test_a_log_file_that_cannot_be_written_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert legacy.run(["-p", "x", "-o", str(tmp_path)], lambda _argv: 0, release=RELEASE) == 2
    assert "cannot be written" in capsys.readouterr().err


@given(
    st.lists(st.sampled_from(["-p", "-k", "-a", "-u", "-d", "-o", "-e", "-l", "-v", "--", "x", "-x", ""]), max_size=8)
)
def test_any_old_command_line_is_translated_or_reported(argv: list[str]) -> None:
    try:
        assert legacy.translate(["-d", "info", *argv], release=RELEASE).argv
    except UsageError:
        return
