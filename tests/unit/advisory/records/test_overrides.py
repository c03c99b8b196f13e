# SPDX-License-Identifier: GPL-2.0-or-later
"""Overrides replace the list, and are refused with the name of the entry if it is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from elivepatch.advisory.exposure.affected import State, assess
from elivepatch.advisory.exposure.version import parse_kernel_version
from elivepatch.advisory.readers.collection import read_records
from elivepatch.advisory.records.overrides import read_overrides
from elivepatch.advisory.records.record import Contradiction, Record
from elivepatch.model.errors import UsageError
from elivepatch.model.progress import silent

SMALL = Path(__file__).parents[2] / "data" / "cve-list"
A, B = "a" * 40, "b" * 40

NEW = f"""
[CVE-2029-10001]
why = "assigned by somebody else"
title = "a bug the list does not have"
files = ["kernel/made_up.c"]
ranges = [
  {{ introduced = "5.10", introduced_commit = "{A}", fixed = "6.1.40", fixed_commit = "{B}" }},
  {{ introduced = "5.10", introduced_commit = "{A}" }},
]
"""


def read(tmp_path: Path, text: str) -> dict[str, Record]:
    (tmp_path / "overrides.toml").write_text(text)
    return read_overrides(tmp_path / "overrides.toml", read_records(SMALL, progress=silent).listed)


def test_an_override_adds_a_record_that_the_list_does_not_have(tmp_path: Path) -> None:
    record = read(tmp_path, NEW)["CVE-2029-10001"]
    assert record.files == ("kernel/made_up.c",)
    assert assess(record, parse_kernel_version("6.1.39")).state is State.AFFECTED
    assert assess(record, parse_kernel_version("6.1.40")).state is State.FIXED
    assert assess(record, parse_kernel_version("5.9")).state is State.NOT_AFFECTED


def test_an_override_replaces_only_what_it_says(tmp_path: Path) -> None:
    listed = read_records(SMALL, progress=silent).listed["CVE-2030-10001"]
    record = read(tmp_path, '[CVE-2030-10001]\nwhy = "also in the header"\nfiles = ["include/linux/lamp.h"]\n')
    assert record["CVE-2030-10001"] == replace(listed, files=("include/linux/lamp.h",), overridden="also in the header")


def test_overrides_go_before_the_list(tmp_path: Path) -> None:
    records = read_records(SMALL, progress=silent)
    text = f'[CVE-2030-10003]\nwhy = "since 6.5"\nranges = [{{ introduced = "6.5", introduced_commit = "{A}" }}]\n'
    both = replace(records, overrides=read(tmp_path, NEW + text))
    assert [record.id for record in both.effective()][:2] == ["CVE-2029-10001", "CVE-2030-10001"]
    found = both.find("CVE-2030-10003")
    assert found is not None
    assert assess(found, parse_kernel_version("6.1.5")).state is State.NOT_AFFECTED


def test_an_unknown_introduction_may_be_left_out(tmp_path: Path) -> None:
    text = f'[CVE-2030-10003]\nwhy = "w"\nranges = [{{ fixed = "6.5", fixed_commit = "{A}" }}]\n'
    assert assess(read(tmp_path, text)["CVE-2030-10003"], parse_kernel_version("4.4.9")).state is State.AFFECTED


RANGE = '[CVE-2030-10001]\nwhy = "w"\nranges = '


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[CVE-2030-10001", "not TOML"),
        ("[cve-1]\nwhy = 'w'", "'cve-1' is not the id"),
        ("CVE-2030-10001 = 3", "CVE-2030-10001 may have only the keys"),
        ("[CVE-2030-10001]\nwhy = 'w'\nstate = 'fixed'", "CVE-2030-10001 may have only the keys"),
        ("[CVE-2030-10001]\nfiles = ['a.c']", "has no `why`"),
        ("[CVE-2030-10001]\nwhy = ' '", "has no `why`"),
        ("[CVE-2030-10001]\nwhy = 'w'\ntitle = 3", "title"),
        ("[CVE-2030-10001]\nwhy = 'w'\nfiles = ['../a.c']", "files"),
        ("[CVE-2030-10001]\nwhy = 'w'\nfiles = 'a.c'", "files"),
        ("[CVE-2031-10001]\nwhy = 'w'\ntitle = 't'", "needs a title and ranges"),
        (RANGE + "[]", "empty"),
        (RANGE + "'5.10'", "range"),
        (RANGE + "[{ since = '5.10' }]", "range"),
        (RANGE + f"[{{ introduced = 5.10, introduced_commit = '{A}' }}]", "in quotes"),
        (RANGE + f"[{{ introduced = '5.10\\n', introduced_commit = '{A}' }}]".replace("'", '"'), "in quotes"),
        (RANGE + f"[{{ introduced = '6.25', introduced_commit = '{A}' }}]", "6.25"),
        (RANGE + "[{ introduced = '6.5', introduced_commit = 'abc' }]", "abc"),
        (RANGE + "[{ introduced = '6.5' }]", "'0'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert caught.value.problem.code == "cve-overrides"
    assert says in caught.value.problem.message


def test_a_file_that_is_missing_or_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_overrides(tmp_path / "missing", {})
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    with pytest.raises(UsageError) as caught:
        read_overrides(tmp_path / "huge", {})
    assert "larger" in caught.value.problem.message


def test_ranges_of_an_administrator_contradict_nothing_of_the_list(tmp_path: Path) -> None:
    listed = read_records(SMALL, progress=silent).listed
    name = "CVE-2030-10003"
    version = parse_kernel_version("5.4")
    doubtful = replace(listed[name], contradictions=(Contradiction(version, None, affected=True, alone=True),))
    commit = "a" * 40
    (tmp_path / "overrides.toml").write_text(
        f'[{name}]\nwhy = "measured"\nranges = [{{ introduced = "5.10", introduced_commit = "{commit}" }}]\n'
    )
    found = read_overrides(tmp_path / "overrides.toml", listed | {name: doubtful})[name]
    assert found.contradictions == ()
    (tmp_path / "overrides.toml").write_text(f'[{name}]\nwhy = "another title"\ntitle = "lamp"\n')
    assert read_overrides(tmp_path / "overrides.toml", listed | {name: doubtful})[name].contradictions
