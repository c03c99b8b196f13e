# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch-server trial replay`: the trial of a job runs again, or the command says what is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from assembled import assembled
from fake_backend import FakeBackend

from elivepatch.model.kernel import KernelIdentity
from elivepatch.model.trial import TrialReport
from elivepatch.service import cli
from elivepatch.service.commands import trial


@dataclass
class FakeBase:
    """A base, as far as a replay asks for it."""

    identity: KernelIdentity


@dataclass
class Replays:
    """The fake backend in the place of this machine's, and a state directory with three jobs."""

    state: Path
    passed: str = ""
    longer: str = ""
    failed: str = ""
    unbuilt: str = ""
    tried: list[dict[str, Any]] = field(default_factory=list)

    def run(self, *words: str) -> int:
        return cli.main(["trial", "replay", *words, "--state", str(self.state)])


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Replays:
    """Build and try: a livepatch that passes, one that fails in its trial, and a patch that does not compile."""
    with assembled(tmp_path_factory.mktemp("state")) as server:
        never = [{"command": "x", "pattern": "never"}]
        return Replays(
            state=server.state,
            passed=server.done("sleep 0\none")["id"],
            failed=server.done("sleep 0\nfails", expectations=never)["id"],
            unbuilt=server.done("compile-error")["id"],
        )


@pytest.fixture
def replays(jobs: Replays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Replays]:
    monkeypatch.setattr("elivepatch.service.commands.options.SERVER_FILE", tmp_path / "none.toml")
    fake = FakeBackend(tmp_path / "runs.txt")

    class Backend:
        """The fake backend, made and asked as that of this machine."""

        def __init__(self, _settings: object) -> None:
            self.facts = fake.facts

        def base(self, release: str) -> FakeBase:
            fake.facts(release)
            return FakeBase(fake.kernels()[0])

        def trial(self, *given: Any, **named: Any) -> TrialReport:
            jobs.tried.append(named)
            return fake.trial(*given, **named)

    monkeypatch.setattr(trial, "LocalBackend", Backend)
    yield jobs
    jobs.tried.clear()


def test_the_trial_of_a_job_runs_again(replays: Replays, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    assert replays.run(replays.passed, "--json", "--console", str(console)) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["job"], shown["kept_outcome"], shown["trial"]["outcome"]) == (replays.passed, "passed", "passed")
    assert console.read_text().startswith("[    0.000000] Linux version")
    assert len(replays.tried) == 1
    assert replays.run(replays.passed) == 0
    assert "trial passed" in capsys.readouterr().out


def test_a_trial_that_failed_fails_again_with_its_problem(replays: Replays, capsys: pytest.CaptureFixture[str]) -> None:
    assert replays.run(replays.failed) == 1
    printed = capsys.readouterr()
    assert "the one that is kept: failed" in printed.out
    assert "[trial-expectation]" in printed.err


def test_a_replay_that_cannot_be_says_why(
    replays: Replays, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def code(*words: str) -> tuple[int, str]:
        status = replays.run(*words, "--json")
        return status, json.loads(capsys.readouterr().out)["problem"]["code"]

    assert code("nonesuch") == (2, "replay-job")
    assert code(replays.unbuilt) == (2, "replay-job")
    assert code(replays.passed, "--phase", "after") == (2, "usage")
    assert code(replays.passed, "--console", str(tmp_path / "none/console.log")) == (2, "usage")
    monkeypatch.setattr(trial, "_TERMINAL", str(tmp_path / "no terminal"))
    assert code(replays.passed, "--interactive") == (2, "replay-terminal")
    for blob in (replays.state / "store").rglob("*"):
        if blob.is_file():
            blob.unlink()
    assert code(replays.passed) == (4, "replay-gone")
    assert replays.tried == []
