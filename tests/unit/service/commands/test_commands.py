# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server serve`: where its settings come from, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_backend import FakeBackend

from elivepatch.model.errors import EnvironmentFault
from elivepatch.service import cli
from elivepatch.service.commands import serve as command
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ServerSettings]:
    """The settings that a server was started with."""
    seen: list[ServerSettings] = []
    monkeypatch.setattr(command, "LocalBackend", lambda _: FakeBackend(tmp_path / "runs.txt"))
    monkeypatch.setattr(command, "serve", lambda settings, _: seen.append(settings))
    monkeypatch.setattr("elivepatch.service.log.set_up", lambda: None)
    monkeypatch.setattr("elivepatch.service.commands.options.SERVER_FILE", tmp_path / "server.toml")
    for name in ("STATE_DIR", "CACHE_DIR", "HOST", "PORT", "JOBS"):
        monkeypatch.delenv(f"ELIVEPATCH_{name}", raising=False)
    return seen


def test_flags_go_before_the_environment_before_the_file(
    served: list[ServerSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "server.toml"
    file.write_text('host = "::1"\nport = 1\njobs = 3\nstate_dir = "/from/file"\n')
    monkeypatch.setenv("ELIVEPATCH_PORT", "2")
    assert cli.main(["serve"]) == 0
    assert (
        cli.main(["serve", "--config", str(file), "--port", "3", "--state", "/s", "--cache", "/c", "--jobs", "1"]) == 0
    )
    assert served == [
        ServerSettings(host="::1", port=2, jobs=3, state_dir=Path("/from/file")),
        ServerSettings(host="::1", port=3, jobs=1, state_dir=Path("/s"), cache_dir=Path("/c")),
    ]


@pytest.mark.parametrize(
    "argv", [[], ["serve", "--port", "x"], ["serve", "--config", "/none"], ["serve", "surplus"], ["unheard-of"]]
)
def test_a_command_line_that_cannot_be_understood_ends_with_2(
    served: list[ServerSettings], argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert served == []
    assert "hint: " in capsys.readouterr().err


def test_a_server_that_cannot_start_ends_with_4_and_says_why(
    served: list[ServerSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def taken(*_: object) -> None:
        raise EnvironmentFault("listen", "The port is taken.", advice="Choose another.")

    monkeypatch.setattr(command, "serve", taken)
    assert cli.main(["serve"]) == 4
    assert capsys.readouterr().err == "error: The port is taken. [listen]\nhint: Choose another.\n"
    assert served == []


@pytest.mark.parametrize("argv", [["--help"], ["serve", "--help"], ["--version"]])
def test_help_and_version_are_told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 0
    assert "elivepatch-server" in capsys.readouterr().out


@pytest.fixture
def strict() -> Iterator[None]:
    """The umask of a careful person's shell."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_strict_umask_does_not_keep_the_sandbox_from_what_the_server_makes(
    strict: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, state = tmp_path / "cache", tmp_path / "state"
    settings = ["--state", str(state), "--cache", str(cache)]
    assert cli.main(["kernel", "remove", "6.1.0-1-amd64", *settings]) != 0
    assert cli.main(["token", "add", "someone", "--role", "host", *settings]) == 0
    with LocalBackend(ServerSettings(cache_dir=cache))._scratch() as scratch:
        (scratch / "work").mkdir()
        (scratch / "work" / "fix.c").write_text("int x;")
        modes = {path.name: path.stat().st_mode & 0o777 for path in (cache, *cache.rglob("*"))}
    assert modes.pop("fix.c") == 0o644
    # The directory of a job is open to the group of the sandbox's user.
    assert modes.pop(scratch.name) == (0o750 if os.geteuid() == 0 else 0o700)
    assert set(modes.values()) == {0o755}
    assert state.stat().st_mode & 0o777 == 0o700
    assert "Traceback" not in capsys.readouterr().err
