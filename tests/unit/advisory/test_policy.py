# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy is read strictly: nothing in it is guessed, and every mistake is named."""

from __future__ import annotations

import contextlib
from datetime import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.advisory.policy import Place, Policy, Window, read_policy
from elivepatch.model.errors import UsageError

WHOLE = """
[choose]
severity = "high"
unrated = false
loaded_only = true
min_age_days = 3
include = ["CVE-2030-10001"]
exclude = ["CVE-2030-10002", "CVE-2030-10003"]
max_functions = 200
[records]
source = "/srv/vulns"
older = "/srv/older"
overrides = "/etc/elivepatch/overrides.toml"
kev = "/srv/kev.json"
epss = "/srv/epss.csv.gz"
[[fixes]]
overlays = true
[[fixes]]
directory = "/srv/fixes"
[[fixes]]
git = "https://git.example/linux-stable.git"
[[fixes]]
http = "https://git.example/linux-stable.git"
[auto]
window = "22:00-05:30"
jitter_minutes = 30
limit_minutes = 90
thorough = true
"""


def read(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return read_policy(file)


def test_every_key_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, WHOLE) == Policy(
        severity="high",
        unrated=False,
        loaded_only=True,
        min_age_days=3,
        include=frozenset({"CVE-2030-10001"}),
        exclude=frozenset({"CVE-2030-10002", "CVE-2030-10003"}),
        max_functions=200,
        records=Path("/srv/vulns"),
        older=Path("/srv/older"),
        overrides=Path("/etc/elivepatch/overrides.toml"),
        kev=Path("/srv/kev.json"),
        epss=Path("/srv/epss.csv.gz"),
        places=(
            Place(kind="overlays", where=""),
            Place(kind="directory", where="/srv/fixes"),
            Place(kind="git", where="https://git.example/linux-stable.git"),
            Place(kind="http", where="https://git.example/linux-stable.git"),
        ),
        window=Window(start=time(22), end=time(5, 30)),
        jitter_s=1800,
        limit_s=5400,
        thorough=True,
    )


def test_an_empty_policy_names_no_place_and_so_fetches_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Policy()
    assert read(tmp_path, "").places == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[chose]\n", "chose"),
        ("choose = 1\n", "choose"),
        ("[choose]\nseverty = 'high'\n", "severty"),
        ("[choose]\nseverity = 'urgent'\n", "severity"),
        ("[choose]\nunrated = 'yes'\n", "unrated"),
        ("[choose]\nmin_age_days = -1\n", "min_age_days"),
        ("[auto]\nthorough = 1\n", "thorough"),
        ("[choose]\nmin_age_days = true\n", "min_age_days"),
        ("[choose]\nmax_functions = 1.5\n", "max_functions"),
        ("[choose]\ninclude = 'CVE-2030-10001'\n", "include"),
        ("[choose]\nexclude = ['CVE-1']\n", "CVE-1"),
        ("[records]\nsource = 'vulns'\n", "source"),
        ("[records]\nkev = 1\n", "kev"),
        ("fixes = 1\n", "fixes"),
        ("[fixes]\ndirectory = '/srv'\n", "fixes"),
        ("[[fixes]]\n", "fixes"),
        ("[[fixes]]\ndirectory = '/srv'\ngit = '/srv'\n", "fixes"),
        ("[[fixes]]\ndirectory = 'srv'\n", "directory"),
        ("[[fixes]]\nftp = '/srv'\n", "ftp"),
        ("[[fixes]]\noverlays = false\n", "overlays"),
        ('[[fixes]]\ngit = "a\\nb"\n', "git"),
        ("[auto]\nwindow = '2 to 5'\n", "window"),
        ("[auto]\nwindow = '25:00-26:00'\n", "window"),
        ("[auto]\nwindow = 3\n", "window"),
        ("[auto]\njitter_minutes = 5000\n", "jitter_minutes"),
        ("[[[", "TOML"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert caught.value.problem.code == "policy"
    assert named in caught.value.problem.message


def test_a_policy_that_is_missing_says_why_one_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_policy(tmp_path / "missing.toml")
    assert "the sources that fixes may come from" in caught.value.problem.advice


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "policy.toml"
    file.write_bytes(content)
    with contextlib.suppress(UsageError):
        read_policy(file)


def test_a_window_may_pass_midnight() -> None:
    night = Window(start=time(22), end=time(5))
    assert [night.contains(time(hour)) for hour in (21, 22, 0, 4, 5)] == [False, True, True, True, False]
    day = Window(start=time(9), end=time(17))
    assert [day.contains(time(hour)) for hour in (8, 9, 16, 17)] == [False, True, True, False]
