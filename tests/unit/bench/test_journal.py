# SPDX-License-Identifier: GPL-2.0-or-later
"""Long runs keep what they have, continue after an interruption, and count a fault of one entry as that entry's."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from journal import Journal, Row

FACTS = {"kernel": "6.1.0-50-cloud-amd64", "base": "ab" * 32}


class Run:
    """A run over ten entries. `made` are the entries that were computed in it."""

    def __init__(self, directory: Path, **facts: str) -> None:
        self.result = directory / "run.json"
        self.facts = FACTS | facts
        self.made: list[str] = []

    def all(self, *, stops_at: Callable[[str], None] = lambda _entry: None, fresh: bool = False) -> list[Row]:
        """Compute all entries that have no result yet."""
        journal = Journal.beside(self.result, self.facts, fresh=fresh)

        def make(entry: str) -> Row:
            stops_at(entry)
            self.made.append(entry)
            return {"name": entry}

        rows = [journal.result(entry, partial(make, entry)) for entry in map(str, range(10))]
        journal.finish()
        return rows


def interrupted_at(entry: str) -> Callable[[str], None]:
    def stop(one: str) -> None:
        if one == entry:
            raise KeyboardInterrupt

    return stop


def test_a_run_that_was_interrupted_continues_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path).all(stops_at=interrupted_at("7"))
    again = Run(tmp_path)
    assert [row["name"] for row in again.all()] == list(map(str, range(10)))
    assert again.made == ["7", "8", "9"]


def test_a_run_that_ended_well_leaves_no_journal_and_the_next_one_computes_all(tmp_path: Path) -> None:
    for _ in range(2):
        run = Run(tmp_path)
        run.all()
        assert len(run.made) == 10
        assert list(tmp_path.iterdir()) == []


def test_a_fault_of_one_entry_is_that_entrys_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(entry: str) -> None:
        if entry == "3":
            raise BlockingIOError(11, "Resource temporarily unavailable")

    rows = Run(tmp_path).all(stops_at=fails)
    assert "Resource temporarily unavailable" in rows[3]["fault"]
    assert len([row for row in rows if "fault" not in row]) == 9
    assert "1 entries ended in a fault" in capsys.readouterr().out
    again = Run(tmp_path)
    again.all()
    assert again.made == ["3"], "the next run tries that entry again, and only that"


def test_a_fresh_run_computes_all(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path).all(stops_at=interrupted_at("7"))
    again = Run(tmp_path)
    again.all(fresh=True)
    assert len(again.made) == 10


def test_results_of_another_kernel_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path).all(stops_at=interrupted_at("7"))
    again = Run(tmp_path, base="cd" * 32)
    again.all()
    assert len(again.made) == 10


@pytest.mark.parametrize("torn", ['{"entry": "9", "row', "\0\0\0\0", "\0\0\n"])
def test_a_line_that_a_power_cut_tore_is_left_out(tmp_path: Path, torn: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path).all(stops_at=interrupted_at("5"))
    with (tmp_path / "run.partial.jsonl").open("a") as file:
        file.write(torn)
    again = Run(tmp_path)
    again.all()
    assert again.made == ["5", "6", "7", "8", "9"]


def test_each_result_is_on_the_disk_before_the_next_entry_begins(tmp_path: Path) -> None:
    def look(entry: str) -> None:
        lines = (tmp_path / "run.partial.jsonl").read_text().splitlines()
        assert [json.loads(line)["entry"] for line in lines[1:]] == list(map(str, range(int(entry))))

    Run(tmp_path).all(stops_at=look)
