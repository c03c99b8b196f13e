# SPDX-License-Identifier: GPL-2.0-or-later
"""The run over a folder of fixes: a fault of one fix or of one boot costs that, and nothing that is known is redone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bare_base import bare_base

import corpus
from corpus import Corpus
from elivepatch.model.build import BuildOutcome, PatchedFunction
from elivepatch.model.trial import CalledFunction
from elivepatch.trial.case import TrialCase
from journal import Journal

REPORT = SimpleNamespace(
    passed=True, reloaded=True, unloaded_parents=(), problems=(), outcome="passed", replaced=1, executed=1,
    functions=(CalledFunction(object="vmlinux", function="f", calls=3),),
)  # fmt: skip
FIXES = ("CVE-2026-1", "CVE-2026-2", "CVE-2026-3")


@pytest.fixture
def folder(tmp_path: Path) -> list[Path]:
    """Make a folder of fixes."""
    (tmp_path / "fixes").mkdir()
    for name in FIXES:
        (tmp_path / f"fixes/{name}.patch").write_text(f"{name}\n")
    return sorted((tmp_path / "fixes").iterdir())


class Bench:
    """A run with builds and trials that only record which fixes they were about."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, failing: str = "") -> None:
        self.built: list[str] = []
        self.tried: list[str] = []
        self.failing = failing
        (directory / "cache/scratch").mkdir(parents=True, exist_ok=True)
        self.corpus = Corpus(
            backend=cast("Any", SimpleNamespace(toolchains=None)), base=bare_base(directory), cache=directory / "cache",
            place=directory, journal=Journal.beside(directory / "corpus.json", {}),
        )  # fmt: skip
        monkeypatch.setattr(corpus, "built", self._built)
        monkeypatch.setattr(corpus, "run_trials", self._trials)
        monkeypatch.setattr(corpus, "TRIED_TOGETHER", 2)

    def _built(self, _context: object, _series: object, name: str, work_dir: Path) -> tuple[BuildOutcome, BuildOutcome]:
        self.built.append(name)
        if self.failing == f"build {name}":
            raise BlockingIOError(11, "Resource temporarily unavailable")
        module = work_dir / f"{name}.ko"
        module.write_bytes(b"module")
        function = PatchedFunction(object="vmlinux", name="f", sympos=0, source="fs/a.c")
        outcome = BuildOutcome(module=module, functions=(function,))
        return outcome, outcome

    def _trials(self, *, cases: Sequence[TrialCase], **_: Any) -> list[Any]:
        assert all(case.livepatch.read_bytes() == b"module" for case in cases)
        if any(self.failing == f"trial {case.name}" for case in cases):
            raise KeyboardInterrupt
        self.tried += [case.name for case in cases]
        assert all([one.name for one in case.workload.functions] == ["f"] for case in cases)
        return [REPORT for _ in cases]

    def run(self, folder: list[Path]) -> list[dict[str, Any]]:
        """Build and try all fixes."""
        entries = [self.corpus.entry(path) for path in folder]
        self.corpus.try_all([entry for entry in entries if entry["class"] == "converted"])
        return entries


def test_a_fault_of_one_fix_does_not_end_the_run(
    tmp_path: Path, folder: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = Bench(tmp_path, monkeypatch, failing="build livepatch_cve_2026_2").run(folder)
    assert [entry["class"] for entry in entries] == ["converted", "fault of the run", "converted"]
    assert [entry["loaded"] for entry in entries] == [True, False, True]
    assert (entries[0]["outcome"], entries[0]["replaced"], entries[0]["executed"]) == ("passed", 1, 1)
    assert entries[0]["observed"] == {"vmlinux:f": 3}
    assert "Resource temporarily unavailable" in entries[1]["reason"]
    assert corpus.summary(entries) == 1
    again = Bench(tmp_path, monkeypatch)
    assert all(entry["loaded"] for entry in again.run(folder))
    assert again.built == again.tried == ["livepatch_cve_2026_2"]


def test_trials_continue_after_an_interruption(
    tmp_path: Path, folder: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Bench(tmp_path, monkeypatch, failing="trial livepatch_cve_2026_3").run(folder)
    again = Bench(tmp_path, monkeypatch)
    entries = again.run(folder)
    assert (again.built, again.tried) == ([], ["livepatch_cve_2026_3"])
    assert corpus.summary(entries) == 0
